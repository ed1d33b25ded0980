"""--jobs of every command of a measure."""

import re

import pytest

from two_sided import command


@pytest.mark.parametrize(
    "asked",
    [
        ("gap",),
        ("overlap", "--roles", "random-text", "-k", "5"),
        pytest.param(("cluster", "--min-size", "5"), marks=pytest.mark.slow),
        pytest.param(("dimension", "--roles", "random-image"), marks=pytest.mark.slow),
        pytest.param(("outliers",), marks=pytest.mark.slow),
    ],
)
def test_several_jobs_give_what_one_gives(store, capsys, asked):
    name, *options = asked
    _, alone, _ = command(capsys, name, store, *options, "--force")
    _, shared, err = command(capsys, name, store, *options, "--force", "--jobs", 2)
    assert shared == alone
    _, _, recalled = command(capsys, name, store, *options, "--jobs", 3)
    assert "saved as" in err
    assert "recalled" in recalled  # jobs are no part of the question


@pytest.mark.slow
def test_a_worker_says_what_is_wrong(store, capsys):
    status, _, err = command(capsys, "cluster", store, "--metric", "cosine", "--method", "hdbscan", "--jobs", 2)
    assert status == 1
    assert re.search(r"layer \d: HDBSCAN takes --metric normalised or euclidean", err)  # whoever has one first
