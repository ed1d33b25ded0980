"""Roles name positions; what a sample does not have is None."""

from pathlib import Path

import numpy as np
import pytest

from actstore_extract.roles import MEANINGS, Layout, RoleError, parse_role, positions


def at(role: str, layout: Layout, *, seed: int = 0, sample_id: str = "s0") -> list[int] | None:
    found = positions(parse_role(role), layout, seed=seed, sample_id=sample_id)
    return None if found is None else found.tolist()


# BOS, BOI, 2 x 2 image tokens each line with its end, frame end, EOI, three words
IMAGE_TEXT = Layout(
    np.array([1, 8, 4, 4, 5, 4, 4, 5, 6, 9, 20, 21, 22]),
    image=np.array([2, 3, 5, 6]),
    eol=np.array([4, 7]),
    boi=1,
    eoi=9,
    text=np.array([10, 11, 12]),
    grid=(2, 2),
    special={"frame-end": 8},
)
TEXT = Layout(np.array([1, 20, 21, 22]), text=np.array([1, 2, 3]))
# BOS, 4 image tokens, two words: an image without end token
BARE = Layout(np.array([1, 4, 4, 4, 4, 20, 21]), image=np.arange(1, 5), text=np.array([5, 6]), grid=(2, 2))


@pytest.mark.parametrize(
    ("role", "image_text", "text", "bare"),
    [
        ("eoi", [9], None, None),
        ("end-image", [9], None, None),
        ("boi", [1], None, None),
        ("first-image", [2], None, [1]),
        ("last-image", [6], None, [4]),
        ("image-1", [2], None, [1]),
        ("image-3", [5], None, [3]),
        ("image-5", None, None, None),
        ("at-0", [0], [0], [0]),
        ("at-6", [6], None, [6]),
        ("at-32", None, None, None),
        ("at-frame-end", [8], None, None),
        ("image-size", None, None, None),
        ("image", [2, 3, 5, 6], None, [1, 2, 3, 4]),
        ("image-mean", [2, 3, 5, 6], None, [1, 2, 3, 4]),
        ("all-image-mean", [1, 2, 3, 4, 5, 6, 7, 8], None, [1, 2, 3, 4]),
        ("image-mean-without-3", [2, 5, 6], None, [1, 2, 4]),
        ("image-mean-without-5-02", [3, 6], None, None),
        ("image-mean-without-1", None, None, [2, 3, 4]),
        ("eol", [4, 7], None, None),
        ("eol-mean", [4, 7], None, None),
        ("text", [10, 11, 12], [1, 2, 3], [5, 6]),
        ("last", [12], [3], [6]),
        ("last-2", [11], [2], [5]),
        ("last-9", [4], None, None),
        ("suffix", [9, 10, 11, 12], None, [4, 5, 6]),
        ("all", list(range(13)), [0, 1, 2, 3], list(range(7))),
    ],
)
def test_each_role(role: str, image_text: list[int] | None, text: list[int] | None, bare: list[int] | None) -> None:
    assert at(role, IMAGE_TEXT) == image_text
    assert at(role, TEXT) == text
    assert at(role, BARE) == bare


def test_positions_are_int64() -> None:
    for role in ("eoi", "image", "random-image-2", "last", "suffix", "all"):
        found = positions(parse_role(role), IMAGE_TEXT, seed=0, sample_id="s")
        assert found is not None
        assert found.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "name"),
    [("end-image", "eoi"), ("image-1", "first-image"), ("last-1", "last"), ("image-032", "image-32"), ("at-0", "at-0"),
     ("random-image-10", "random-image-10"), ("random-text-01", "random-text"),
     ("image-mean-without-32", "image-mean-without-32"), ("image-mean-without-40-07-7", "image-mean-without-7-40")],
)  # fmt: skip
def test_names_are_canonical(text: str, name: str) -> None:
    assert parse_role(text).name == name
    assert parse_role(name) == parse_role(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lst-image", "did you mean 'last-image'"),
        ("end_image", "did you mean 'end-image'"),
        ("image-0", "no role is called 'image-0'"),
        ("last--2", "did you mean 'last-2'"),
        ("eoi-3", "no role is called"),
        ("at-../x", "no role is called"),
        ("", "roles are all, all-image-mean, at-P, at-NAME, boi, eoi"),
    ],
)
def test_bad_roles_name_the_nearest(text: str, message: str) -> None:
    with pytest.raises(RoleError, match=message):
        parse_role(text)


def test_only_means_are_means() -> None:
    assert [name for name in ("image", "image-mean", "eol-mean", "text-mean", "eoi") if parse_role(name).is_mean] == [
        "image-mean",
        "eol-mean",
        "text-mean",
    ]


LONG = Layout(np.arange(1100), image=np.arange(2, 1026), text=np.arange(1027, 1100))


def test_random_draws_depend_on_seed_and_sample_alone() -> None:
    ten = at("random-image-10", LONG)
    assert ten == at("random-image-10", LONG)
    assert ten is not None
    assert len(set(ten)) == 10
    assert ten == sorted(ten)
    assert set(ten) <= set(range(2, 1026))
    assert ten != at("random-image-10", LONG, seed=1)
    assert ten != at("random-image-10", LONG, sample_id="s1")
    assert set(at("random-text-5", LONG) or []) <= set(range(1027, 1100))


def test_random_draws_are_the_same_everywhere() -> None:
    assert at("random-image-3", LONG, seed=7, sample_id="beagle/01") == [434, 729, 856]


def test_random_draws_are_even() -> None:
    drawn = [at("random-image", BARE, sample_id=f"s{i}") for i in range(2000)]
    counts = np.bincount([found[0] for found in drawn if found], minlength=5)[1:]
    assert counts.min() > 440
    assert at("random-image-4", BARE) == [1, 2, 3, 4]
    assert at("random-image-5", BARE) is None


def test_modality() -> None:
    assert IMAGE_TEXT.modality(np.array([0, 1, 2, 4, 9, 10])).tolist() == [
        "special", "special", "image", "special", "special", "text",
    ]  # fmt: skip


def test_the_roles_that_errors_list_are_in_the_documents():
    page = (Path(__file__).parents[2] / "docs" / "howto" / "recipes.md").read_text(encoding="utf-8")
    listed = page.partition("\nRoles: ")[2].partition("\nWhere an image is")[0]
    assert [role for role in MEANINGS if f"`{role}`" not in listed] == []
