"""actstore dimension, end to end on a small store made with numpy."""

import numpy as np
import pytest

import actstore
from actstore_analyze.dimension.measure import gride
from actstore_analyze.dimension.study import Dimension
from actstore_analyze.study.intervals import halves, of_halves, positive
from two_sided import N, command, vectors


def test_dimension_at_rank_2_is_the_two_nearest_neighbours_estimate(store, capsys):
    asked = ("dimension", store, "from rows where prompt_order = 'image-text'", "--roles", "random-text,eoi")
    _, rows, _ = command(capsys, *asked, "--rank", 2)
    for row in rows:
        if (row["role"], row["layer"]) == ("eoi", 0):
            assert row["id"] is None or np.isnan(row["id"])
            continue
        x = vectors(row["role"], "image-text", row["layer"]).astype(np.float64)
        away = np.sort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)
        logs = np.log(away[:, 2] / away[:, 1])
        assert row["id"] == pytest.approx((N - 1) / logs.sum(), rel=1e-6)
        assert row["low"] < row["id"] < row["high"]
        found = halves(lambda chosen: gride(x[chosen], range_max=2)["id"][-1], N)
        assert (row["low"], row["high"]) == pytest.approx(positive(row["id"], of_halves(found, N)), rel=1e-6)
        assert row["error"] == pytest.approx(row["id"] / np.sqrt(N), rel=1e-3)


def test_without_an_interval_it_is_another_result(store, capsys):
    asked = ("dimension", store, "from rows where prompt_order = 'image-text'", "--roles", "random-text", "--rank", 4)
    _, rows, _ = command(capsys, *asked)
    assert all(row["low"] is not None for row in rows)
    for _ in range(2):
        _, bare, err = command(capsys, *asked, "--no-interval")
        assert all(row["low"] is None and row["id"] is not None for row in bare)
    assert "recalled" in err
    call = Dimension.of(actstore.open(store), roles=["random-text"], interval="none")
    assert call.command(store).endswith("--no-interval")
    assert "Interval" not in call.methods
    _, unique, _ = command(capsys, *asked, "--unique")
    assert [row["low"] for row in unique] == [None] * len(rows)
