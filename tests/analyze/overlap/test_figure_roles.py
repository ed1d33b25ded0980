"""The roles that a recipe stores for the paper's overlap figure are those that the command and the report draw."""

import numpy as np
import pytest

import actstore
from actstore.commands.main import run
from extracting import extract
from pages import Page
from two_sided import command

MEANS = {"image-mean-without-5": 5, "image-mean-without-3-17": (3, 17)}
FIGURE = ["at-5", "first-image", "all-image-mean", *MEANS]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("figure") / "s"
    roles = ["last", "boi", "image", "random-image", *FIGURE, "image-mean", "last-image", "eoi"]
    extract(path, f"capture.roles={roles}", "capture.layers=[0, 3, 6]", "model.dtype=float32")
    return path


def test_every_curve_that_is_stored_is_drawn(store, tmp_path, capsys):
    _, rows, _ = command(
        capsys, "overlap", store, "-k", 5, "--figure", tmp_path / "f.svg", "--reference", "pixtral-12b"
    )
    assert list(dict.fromkeys(row["role"] for row in rows)) == ["eoi", "last-image", "image-mean", *sorted(FIGURE)]
    drawn = (tmp_path / "f.svg").read_text()
    assert all(f"{role}, layer 6: overlap" in drawn for role in FIGURE)
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    assert all(role in Page((tmp_path / "r.html").read_text()).words for role in FIGURE)


def test_the_internal_image_is_what_is_left(store):
    """The paper leaves the 32nd token out, its code takes the beginning of the image in."""
    opened = actstore.open(store)
    rows = {role: opened.sql(f"from rows where role = '{role}' order by sample_id, k") for role in opened.roles}
    x = {role: opened.residual(own, 3) for role, own in rows.items()}
    at = rows["image"]["position"].to_numpy().reshape(24, -1)
    image = x["image"].reshape(*at.shape, -1)
    for role, without in MEANS.items():
        kept = ~np.isin(at[0], without)
        assert kept.sum() == at.shape[1] - np.size(without)
        np.testing.assert_allclose(x[role], image[:, kept].mean(1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x["image-mean"], image.mean(1), rtol=1e-4, atol=1e-5)
    whole = np.concatenate([x["boi"][:, None], image], axis=1)
    np.testing.assert_allclose(x["all-image-mean"], whole.mean(1), rtol=1e-4, atol=1e-5)
    assert {one["modality"][0] for role, one in rows.items() if role.endswith("mean")} == {"image"}
