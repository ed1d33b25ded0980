"""A small store of image and text tokens, and autoencoders for two of its layers as Gemma Scope lays them out."""

import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.sae.study import METRICS

D, FEATURES, LAYERS = 6, 10, (0, 1, 2)

# sample -> order of its prompt, image tokens, text tokens: numbers differ, so that the two averages do
SAMPLES = {"a": ("image-text", 3, 2), "b": ("image-text", 5, 1), "c": ("text", 0, 4), "d": ("text", 0, 2)}


def vectors(role, layer):
    """(rows, D) of all samples, in the order of their rows."""
    count = sum(numbers[1 if role == "image" else 2] for numbers in SAMPLES.values())
    return np.random.default_rng([layer, len(role)]).standard_normal((count, D)).astype(np.float32) + layer


def make_store(path, shift=0.0):
    """Two batches: samples a and b, c and d."""
    plan = pl.DataFrame(
        {
            "batch": [0, 0, 1, 1],
            "sample_id": list(SAMPLES),
            "prompt_order": [order for order, _, _ in SAMPLES.values()],
        }
    )
    store = actstore.create(path, plan=plan, layers=LAYERS, d_model=D, dtype="float32", run={"n_layers": 2})
    for number, chosen in enumerate(["ab", "cd"]):
        rows, residual = [], {}
        for role, column in (("image", 1), ("text", 2)):
            own = [sample for sample in SAMPLES for _ in range(SAMPLES[sample][column])]
            mine = [i for i, sample in enumerate(own) if sample in chosen]
            rows += [{"sample_id": own[i], "role": role} for i in mine]
            if mine:
                residual[role] = np.stack([vectors(role, layer)[mine] + shift for layer in LAYERS])
        samples = pl.DataFrame({"sample_id": list(chosen), "status": "ok"})
        store.write(number, samples=samples, rows=pl.DataFrame(rows), residual=residual)
    return path


def weights(layer):
    rng = np.random.default_rng(100 + layer)
    return {
        "W_enc": rng.standard_normal((D, FEATURES)).astype(np.float32),
        "b_enc": rng.standard_normal(FEATURES).astype(np.float32) / 4,
        "W_dec": rng.standard_normal((FEATURES, D)).astype(np.float32) / 4,
        "b_dec": rng.standard_normal(D).astype(np.float32),
        "threshold": np.full(FEATURES, 0.5, np.float32),
    }


def command(capsys, *arguments):
    """Exit status, the table, and what was said on standard error."""
    status = run([*map(str, arguments)])
    out, err = capsys.readouterr()
    return status, pl.DataFrame([json.loads(line) for line in out.splitlines()]), err


def assert_metrics(row, expected):
    assert {name: row[name] for name in METRICS} == pytest.approx(
        {name: asdict(expected)[name] for name in METRICS}, rel=1e-5
    )


def make_scope(path):
    """Gemma Scope's folders: layer_l/width/params.npz, of the outputs of blocks 0 and 1."""
    for layer in (0, 1):
        folder = path / f"layer_{layer}" / "width_10" / f"average_l0_{layer + 3}"
        folder.mkdir(parents=True)
        np.savez(folder / "params.npz", **weights(layer))
    return path


class Dense:
    """The autoencoder of these weights, the naive way, in float64."""

    def __init__(self, weights):
        self.weights = {name: np.asarray(one, np.float64) for name, one in weights.items()}

    def encode(self, x):
        raw = x @ self.weights["W_enc"] + self.weights["b_enc"]
        return np.where(raw > np.maximum(self.weights["threshold"], 0), raw, 0)

    def decode(self, features):
        return features @ self.weights["W_dec"] + self.weights["b_dec"]


def wide(threshold, d=48, n_features=700):
    """Weights of many features, all with one threshold."""
    rng = np.random.default_rng(0)
    return {
        "W_enc": rng.standard_normal((d, n_features)).astype(np.float32) / 7,
        "b_enc": rng.standard_normal(n_features).astype(np.float32) / 4,
        "W_dec": rng.standard_normal((n_features, d)).astype(np.float32) / 7,
        "b_dec": rng.standard_normal(d).astype(np.float32),
        "threshold": np.full(n_features, threshold, np.float32),
    }
