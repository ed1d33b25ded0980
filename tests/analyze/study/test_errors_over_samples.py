"""Errors of roles of several positions count samples: positions of one sample do not err independently."""

import json

import numpy as np
import pytest

from actstore.commands.main import run
from actstore_analyze.dimension import gride
from labelled import LAYERS, POSITIONS, N, make_store, vectors


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def measured(capsys, *words):
    assert run([*map(str, words)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def neighbours(x, k):
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def test_data_overlap(store, capsys):
    """Each sample's share is averaged over its positions; the error is that of the samples' means."""
    rows = measured(capsys, "overlap", store, "--roles", "image", "--with-layer", 2, "--layers", "0,1", "-k", 5)
    for row, layer in zip(rows, (0, 1), strict=True):
        one, two = (vectors("image", at, POSITIONS).astype(np.float32) for at in (layer, 2))
        shares = np.zeros((POSITIONS, N))
        for k in range(POSITIONS):
            pairs = zip(neighbours(one[:, k], 5), neighbours(two[:, k], 5), strict=True)
            shares[k] = [len(set(a) & set(b)) / 5 for a, b in pairs]
        assert row["overlap"] == pytest.approx(shares.mean())
        assert row["se"] == pytest.approx(shares.mean(0).std(ddof=1) / np.sqrt(N))


def test_dimension(store, capsys):
    """The error of a dimension over positions is the mean of theirs, which more positions do not make smaller."""
    rows = measured(capsys, "dimension", store, "--roles", "image", "--rank", 8)
    for row, layer in zip(rows, LAYERS, strict=True):
        x = vectors("image", layer, POSITIONS).astype(np.float32)
        found = [gride(x[:, k], range_max=8).filter(rank=8).row(0, named=True) for k in range(POSITIONS)]
        assert row["id"] == pytest.approx(np.mean([one["id"] for one in found]))
        assert row["error"] == pytest.approx(np.mean([one["error"] for one in found]))
