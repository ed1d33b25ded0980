"""actstore dimension, end to end on a small store made with numpy."""

import numpy as np
import pytest

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
        assert row["error"] == pytest.approx(row["id"] / np.sqrt(N), rel=1e-3)
