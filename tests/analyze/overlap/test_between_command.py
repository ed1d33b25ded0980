"""actstore overlap --with-...: neighbours in common between layers, roles, conditions and stores."""

import re

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.overlap.between import DataOverlap
from actstore_analyze.study.intervals import halves, of_halves, share
from two_sided import D, N, command, make, vectors

SQL = "from rows where prompt_order = 'image-text'"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("two") / "store")


def near(x, k):
    away = np.linalg.norm(x[:, None].astype(np.float64) - x, axis=2)
    np.fill_diagonal(away, np.inf)
    return np.argsort(away, axis=1, kind="stable")[:, :k]


def naive(x, z, k):
    """The definition, point by point."""
    pairs = zip(near(x, k), near(z, k), strict=True)
    return np.mean([len(set(a) & set(b)) / k for a, b in pairs])


def of(role, layer, order="image-text"):
    return vectors(role, order, layer)


def test_with_a_layer(store, capsys):
    status, rows, err = command(capsys, "overlap", store, SQL, "--roles", "random-text", "--with-layer", 2, "-k", 5)
    assert status == 0
    assert "saved as" in err
    for row in rows:
        expected = naive(of("random-text", row["layer"]), of("random-text", 2), 5)
        assert row["overlap"] == pytest.approx(expected)
        assert row["chance"] == pytest.approx(5 / (N - 1))
    assert rows[2]["overlap"] == 1
    x, z = of("random-text", 1), of("random-text", 2)
    found = halves(lambda chosen: naive(x[chosen], z[chosen], 5), N)
    assert (rows[1]["low"], rows[1]["high"]) == pytest.approx(share(rows[1]["overlap"], of_halves(found, N), N))
    assert [row["with_layer"] for row in rows] == [2, 2, 2]


def test_with_a_role(store, capsys):
    _, rows, _ = command(capsys, "overlap", store, SQL, "--roles", "random-text", "--with-role", "eoi", "-k", 5)
    assert rows[0]["overlap"] is None or np.isnan(rows[0]["overlap"])  # eoi is constant at layer 0
    assert rows[1]["overlap"] == pytest.approx(naive(of("random-text", 1), of("eoi", 1), 5))
    assert rows[1]["with_role"] == "eoi"


def other_store(path, names, layers=(1,)):
    """eoi of other vectors, the same at each layer, and two positions of image."""
    plan = pl.DataFrame({"sample_id": names})
    store = actstore.create(path, plan=plan, layers=layers, d_model=D, dtype="float32")
    each = [(name, "image", k) for k in range(2) for name in names]
    rows = pl.DataFrame([(name, "eoi", 0) for name in names] + each, schema=["sample_id", "role", "k"], orient="row")
    x = np.random.default_rng(5).standard_normal((3, 1, len(names), D)).astype(np.float32)
    residual = {"eoi": x[0], "image": x[1:].transpose(1, 0, 2, 3).reshape(1, -1, D)}
    residual = {role: np.repeat(vectors, len(layers), axis=0) for role, vectors in residual.items()}
    store.write(0, samples=plan.with_columns(status=pl.lit("ok")), rows=rows, residual=residual)
    return x[:, 0]


@pytest.mark.parametrize("ending", ["/image-text", ""])
def test_with_another_store_by_sample(store, tmp_path, capsys, ending):
    names = [f"s{i:03}{ending}" for i in reversed(range(10, 60))]
    x = other_store(tmp_path / "other", names)
    asked = ("overlap", store, SQL, "--roles", "eoi", "--with-store", tmp_path / "other", "-k", 5)
    _, rows, err = command(capsys, *asked)
    assert "role 'eoi': 30 of 80 samples have no counterpart; left out" in err
    assert [(row["layer"], row["n"]) for row in rows] == [(1, 50)]  # the layer that both have
    assert f"left out: layers 0, 2 of {store.name}, which other does not have; --with-layer compares with one" in err
    assert rows[0]["overlap"] == pytest.approx(naive(of("eoi", 1)[10:60], x[0][::-1], 5))
    other_store(tmp_path / "deeper", names, layers=(0, 1, 2, 3, 4))
    _, rows, err = command(
        capsys, "overlap", store, SQL, "--roles", "eoi", "--with-store", tmp_path / "deeper", "-k", 5
    )
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert f"left out: layers 3, 4 of deeper, which {store.name} does not have" in err
    status, _, err = command(capsys, "overlap", store, SQL, "--roles", "eoi", "--with-store", tmp_path / "other",
                             "--with-role", "image", "-k", 5)  # fmt: skip
    assert status == 1
    assert "role 'eoi' has 1 positions, role 'image' has 2" in err


def test_each_position_with_one_vector(store, tmp_path, capsys):
    names = [f"s{i:03}/image-text" for i in range(N)]
    x = other_store(tmp_path / "other", names)
    asked = ("overlap", tmp_path / "other", "--roles", "image", "--with-store", store, "--with-role", "eoi", "-k", 5)
    _, rows, _ = command(capsys, *asked)
    each = [naive(x[1 + k], of("eoi", 1), 5) for k in range(2)]
    assert rows[0]["overlap"] == pytest.approx(np.mean(each))
    assert rows[0]["positions"] == 2


def test_with_a_condition(tmp_path, capsys):
    frame = pl.DataFrame(
        [(f"s{i}", condition) for condition in ("none", "blocked") for i in range(20)],
        schema=["sample_id", "condition"],
        orient="row",
    )
    store = actstore.create(tmp_path / "s", plan=frame, layers=[0], d_model=3, dtype="float32")
    x = np.random.default_rng(1).standard_normal((1, 40, 3)).astype(np.float32)
    rows = frame.with_columns(role=pl.lit("eoi"), k=pl.lit(0))
    store.write(0, samples=frame.with_columns(status=pl.lit("ok")), rows=rows, residual={"eoi": x})
    _, rows, _ = command(capsys, "overlap", store.path, "--with-condition", "none", "-k", 3)
    assert [row["condition"] for row in rows] == ["blocked"]
    assert rows[0]["overlap"] == pytest.approx(naive(x[0, 20:], x[0, :20], 3))
    only = "from rows where condition = 'none'"
    assert run(["overlap", str(store.path), only, "--with-condition", "none", "-k", "3"]) == 1
    assert "the query selects condition 'none' alone" in capsys.readouterr().err


@pytest.mark.slow
def test_jobs_figure_and_report(store, tmp_path, capsys):
    asked = ("overlap", store, SQL, "--roles", "random-text", "--with-layer", 1, "-k", 4)
    _, alone, _ = command(capsys, *asked, "--figure", tmp_path / "f.svg")
    drawing = (tmp_path / "f.svg").read_text()
    assert "random-text, layer 1: overlap 1.0" in drawing
    assert f"n = {N} samples, euclidean distance; with random-text, layer 1" in drawing
    assert command(capsys, *asked, "--force", "--jobs", 2)[1] == alone
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert ">Data overlap with layer 1, k = 4" in page
    assert "--roles random-text --layers 0,1,2 --with-layer 1 -k 4" in page


def test_the_other_store_is_part_of_the_question(store, tmp_path):
    other_store(tmp_path / "other", ["a", "b"])
    call = DataOverlap.of(actstore.open(store), roles=["eoi"], with_store=tmp_path / "other", k=3)
    assert call.parameters["with_state"] == actstore.open(tmp_path / "other").state
    assert (
        call.command(store) == f"actstore overlap {store} --roles eoi --layers 1 --with-store {tmp_path / 'other'} -k 3"
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--with-role", "eio"], 1, "no role 'eio' in .*; did you mean 'eoi'"),
        (["--with-layer", "9"], 1, r"layer 9 is not in this store; it has 0\.\.2"),
        (["--with-condition", "x"], 1, "has no rows of role 'eoi' under condition 'x' to compare with"),
        (["--with-store", "nowhere"], 1, "nowhere"),
        (["--with-layer", "1", "-k", "300"], 1, "k = 300, but role 'eoi' has 160 samples"),
        (["--with-layer", "1", "--label", "split"], 2, "--label is of label overlap"),
    ],
)
def test_bad_input_is_one_clear_line(store, capsys, arguments, status, message):
    assert run(["overlap", str(store), "--roles", "eoi", *arguments]) == status
    assert re.search(message, capsys.readouterr().err)
