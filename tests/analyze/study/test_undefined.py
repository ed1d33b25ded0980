"""What cannot be measured at a layer is NaN with its reason; the rest is measured."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands import main

N, D = 40, 4
LABELS = ["a"] * 20 + ["b"] * 17 + ["c"] * 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Layer 0 has two vectors, one of them zero; layers 1 and 2 are random."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 2 * N, D)).astype(np.float32)
    x[0] = np.where(np.arange(2 * N)[:, None] < 2, 0, 1)
    plan = pl.DataFrame({"sample_id": [f"s{i:02d}" for i in range(N)], "label": LABELS})
    made = actstore.create(tmp_path_factory.mktemp("undefined") / "s", plan=plan, layers=range(3), d_model=D)
    rows = pl.concat(
        [plan.select("sample_id", role=pl.lit(role), position=pl.lit(at), modality=pl.lit(kind))
         for at, (role, kind) in enumerate((("last", "text"), ("eoi", "image")))]
    )  # fmt: skip
    residual = {"last": x[:, :N], "eoi": x[:, N:]}
    made.write(0, samples=plan.select("sample_id", status=pl.lit("ok")), rows=rows, residual=residual)
    return made.path


def measured(store, capsys, *command):
    assert main.run([str(word) for word in (command[0], store, *command[1:], "--format", "jsonl", "--force")]) == 0
    said = capsys.readouterr()
    return [json.loads(line) for line in said.out.splitlines()], " ".join(said.err.split())


@pytest.mark.parametrize(
    ("command", "column", "reason"),
    [
        (("cluster", "--roles", "last", "-k", 4, "--metric", "euclidean"), "homogeneity_all", "the points coincide"),
        (("cluster", "--roles", "last", "-k", 4, "--metric", "cosine"), "homogeneity_all", "row 0 is a zero vector"),
        (("dimension", "--roles", "last"), "id", "the points coincide, or nearly so"),
        (("dimension", "--roles", "last", "--unique"), "id", "2 different vectors have no 16 neighbours each"),
        (("overlap", "--roles", "last", "-k", 4, "--metric", "cosine"), "overlap", "row 0 is a zero vector"),
        (("overlap", "--roles", "last", "-k", 4, "--with-role", "eoi"), "overlap", "all vectors of the other"),
        (("overlap", "--roles", "eoi", "-k", 4), "overlap", "all vectors are the same"),
        (("gap", "--text", "role = 'last'", "--image", "role = 'eoi'"), "median", "row 0 is a zero vector"),
    ],
)  # fmt: skip
def test_a_layer_without_a_value_says_why(store, capsys, command, column, reason):
    found, said = measured(store, capsys, *command)
    bad, *good = sorted(found, key=lambda row: row["layer"])
    assert bad["layer"] == 0
    assert bad[column] is None or np.isnan(float(bad[column]))
    assert reason in bad["reason"]
    assert [row["layer"] for row in good] == [1, 2]
    assert all(np.isfinite(row[column]) and row["reason"] is None for row in good)
    assert f"layer 0: not defined: {reason}" in said


def test_a_reason_is_a_column_where_there_is_one(store, capsys):
    found, said = measured(store, capsys, "dimension", "--roles", "last", "--layers", "1,2")
    assert "reason" not in found[0]
    assert "not defined" not in said


def test_a_probe_leaves_out_labels_that_are_too_few(store, capsys):
    found, said = measured(store, capsys, "probe", "--roles", "last")
    assert [(row["layer"], row["n"], row["classes"]) for row in found] == [(layer, 37, 2) for layer in range(3)]
    assert "left out, with fewer vectors than 5 folds: c (3); --folds takes fewer" in said
    with_all, _ = measured(store, capsys, "probe", "--roles", "last", "--folds", 3)
    assert {row["classes"] for row in with_all} == {3}
