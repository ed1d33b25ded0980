"""Copies: several prompts for one picture give one vector at its end; measures say so, and can keep them out."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.cluster.measure import density_peaks
from actstore_analyze.dimension.measure import gride
from actstore_analyze.overlap.measure import chance_level, data_overlap, label_overlap

PICTURES, PROMPTS, D = 60, 3, 5
ROWS = PICTURES * PROMPTS
PICTURE = np.repeat(np.arange(PICTURES), PROMPTS)
LABEL = PICTURE % 3


def vectors(role):
    """eoi: of the picture alone; last: of picture and prompt."""
    rng = np.random.default_rng(len(role))
    x = rng.standard_normal((PICTURES, D))[PICTURE] + LABEL[:, None]
    return (x if role == "eoi" else x + 0.1 * rng.standard_normal((ROWS, D))).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    units = pl.DataFrame({"sample_id": [f"{i:03}" for i in range(ROWS)]})
    plan = units.with_columns(picture=pl.Series(PICTURE).cast(pl.String), label=pl.Series(LABEL).cast(pl.String))
    path = tmp_path_factory.mktemp("copies") / "store"
    made = actstore.create(path, plan=plan, layers=[1], d_model=D, dtype="float32", run={"n_layers": 1})
    rows = pl.concat([units.with_columns(role=pl.lit(role)) for role in ("eoi", "last")]).sort("sample_id", "role")
    residual = {role: vectors(role)[None] for role in ("eoi", "last")}
    made.write(0, samples=units.with_columns(status=pl.lit("ok")), rows=rows, residual=residual)
    return path


def measured(capsys, *words):
    assert run([str(word) for word in words]) == 0
    out, err = capsys.readouterr()
    return pl.DataFrame([json.loads(line) for line in out.splitlines()]), err


def naive_overlap(x, k, group):
    """One point at a time, those of its group left out."""
    shares = []
    for i, point in enumerate(x.astype(np.float64)):
        away = np.where(group == group[i], np.inf, np.linalg.norm(x - point, axis=1))
        shares.append((LABEL[np.argsort(away, kind="stable")[:k]] == LABEL[i]).mean())
    return np.mean(shares)


def test_copies_are_counted_and_said(store, capsys):
    for call in (["overlap", "-k", 2], ["dimension", "--rank", 2], ["cluster", "-k", 2]):
        for _ in ("computed", "recalled"):
            table, err = measured(capsys, call[0], store, "--roles", "eoi,last", *call[1:])
            assert table.select("role", "copies", "n").rows() == [("eoi", ROWS - PICTURES, ROWS), ("last", 0, ROWS)]
            assert "role 'eoi', layer 1: 120 of 180 vectors are identical with others" in err
            assert "role 'last'" not in err
    table, err = measured(capsys, "overlap", store, "--roles", "last", "--with-role", "eoi", "-k", 2)
    assert (table["copies"].item(), "120 of 180 vectors are identical" in err) == (120, True)


def test_unique_measures_one_of_each(store, capsys):
    x, z, one = vectors("eoi"), vectors("last"), np.arange(0, ROWS, PROMPTS)
    table, err = measured(capsys, "overlap", store, "--roles", "eoi", "-k", 2, "--unique")
    expected = label_overlap(x[one], LABEL[one], 2), chance_level(LABEL[one]), PICTURES, 120
    assert table.select("overlap", "chance", "n", "copies").row(0) == pytest.approx(expected)
    assert "120 vectors equal others and were left out; 60 are measured" in err
    table, _ = measured(capsys, "dimension", store, "--roles", "eoi", "--rank", 16, "--unique", "--center")
    expected = gride(x[one] - x[one].mean(axis=0), range_max=16)["id"][-1], PICTURES
    assert table.select("id", "n").row(0) == pytest.approx(expected, rel=1e-6)
    for method in ("adp", "hdbscan"):
        asked = ("--roles", "eoi", "-k", 5, "--min-size", 5, "--method", method)
        table, _ = measured(capsys, "cluster", store, *asked, "--unique")
        one_each = "from rows where sample_id::int % 3 = 0"
        alone, _ = measured(capsys, "cluster", store, one_each, *asked, "--no-interval")
        assert table.drop("copies").equals(alone.drop("copies"))  # copies left out have no intervals
        assert table["n"].item() == PICTURES
    table, _ = measured(capsys, "overlap", store, "--roles", "last", "--with-role", "eoi", "-k", 4, "--unique")
    expected = data_overlap(z[one], x[one], 4), 4 / (PICTURES - 1), PICTURES
    assert table.select("overlap", "chance", "n").row(0) == pytest.approx(expected)


def test_rows_of_one_group_are_no_neighbours(store, capsys):
    x, z = vectors("eoi"), vectors("last")
    table, err = measured(capsys, "overlap", store, "--roles", "eoi,last", "-k", 4, "--group", "picture")
    chance = np.mean([(LABEL[p != PICTURE] == LABEL[p == PICTURE][0]).mean() for p in PICTURE])
    for role, row in zip((x, z), table.iter_rows(named=True), strict=True):
        assert row["overlap"] == pytest.approx(naive_overlap(role, 4, PICTURE))
        assert row["chance"] == pytest.approx(chance)
    assert table["overlap"][0] < label_overlap(x, LABEL, 2) == 1  # copies carry their own label
    assert "identical" not in err
    table, _ = measured(
        capsys, "overlap", store, "--roles", "last", "--with-role", "eoi", "-k", 4, "--group", "picture"
    )
    expected = data_overlap(z, x, 4, groups=PICTURE), 4 / (ROWS - PROMPTS)
    assert table.select("overlap", "chance").row(0) == pytest.approx(expected)
    table, _ = measured(capsys, "dimension", store, "--roles", "last", "--rank", 16, "--group", "picture")
    assert table["id"].item() == pytest.approx(gride(z, range_max=16, groups=PICTURE)["id"][-1])
    table, _ = measured(
        capsys, "cluster", store, "--roles", "last", "-k", 5, "--group", "picture", "--metric", "euclidean"
    )
    found = density_peaks(z, k=5, metric="euclidean", groups=PICTURE)
    assert table.select("clusters", "dimension").row(0) == (len(found.centers), pytest.approx(found.dimension))


def test_groups_come_from_the_query_too_and_missing_ones_are_alone(store, capsys):
    sql = "select *, case when picture::int < 30 then picture end as p from rows"
    table, _ = measured(capsys, "overlap", store, sql, "--roles", "last", "-k", 4, "--group", "p")
    group = np.where(PICTURE < 30, PICTURE, 1000 + np.arange(ROWS))
    assert table["overlap"].item() == pytest.approx(naive_overlap(vectors("last"), 4, group))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["overlap", "--group", "pictur"], "no column 'pictur' to take labels from"),
        (["overlap", "-k", "130", "--group", "label"], "60 of them in one group: these have no 130 neighbours outside"),
        (["cluster", "--method", "hdbscan", "--group", "picture"], "--group is of density peaks"),
    ],
)
def test_wrong_groups_end_in_one_line(store, capsys, words, message):
    assert run([words[0], str(store), "--roles", "last", *words[1:]]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("actstore: ")]) == 1
    assert "Traceback" not in err


def test_too_few_unique_vectors_have_no_value(store, capsys):
    table, err = measured(capsys, "overlap", store, "--roles", "eoi", "-k", 60, "--unique")
    assert table.select(pl.col("overlap").cast(float).fill_nan(None), "n").rows() == [(None, 60)]
    assert "60 are measured" in err
