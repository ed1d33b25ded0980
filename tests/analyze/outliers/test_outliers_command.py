"""actstore outliers, and measures without the dimensions it names."""

import re

import numpy as np
import polars as pl
import pytest

import actstore
import two_sided
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.outliers.measure import Magnitudes, magnitudes
from actstore_analyze.overlap.measure import label_overlap
from two_sided import command

N, D = 60, 30
MASSIVE = (7, 21)


def vectors(layer):
    """(N, D): three classes that part; at layer 1 two massive dimensions, of which one is noise and one a constant."""
    rng = np.random.default_rng(layer)
    x = rng.standard_normal((N, D)) + 1.0 * rng.standard_normal((3, D))[np.arange(N) % 3]
    if layer == 1:
        x[:, MASSIVE[0]] = 400 * rng.standard_normal(N)
        x[:, MASSIVE[1]] = 900
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    plan = pl.DataFrame({"batch": [0] * 40 + [1] * 20, "sample_id": [f"s{i:02}" for i in range(N)]})
    plan = plan.with_columns(label=pl.Series(list("abc") * 20))
    store = actstore.create(tmp_path_factory.mktemp("o") / "s", plan=plan, layers=[0, 1], d_model=D, dtype="float32")
    for batch, part in enumerate([slice(0, 40), slice(40, 60)]):
        own = plan[part]
        rows = own.select("sample_id", role=pl.lit("eoi"), k=pl.lit(0))
        residual = {"eoi": np.stack([vectors(layer)[part] for layer in (0, 1)])}
        store.write(batch, samples=own.select("sample_id", status=pl.lit("ok")), rows=rows, residual=residual)
    return store.path


def test_norms_and_massive_dimensions(store, tmp_path, capsys):
    status, rows, err = command(capsys, "outliers", store, "--figure", tmp_path / "f.svg")
    assert status == 0
    assert "saved as" in err
    for row in rows:
        x = vectors(row["layer"]).astype(np.float64)
        norms = np.linalg.norm(x, axis=1)
        expected = [*np.quantile(norms, [0.25, 0.5, 0.75]), norms.max()]
        assert [row[name] for name in ("norm_q25", "norm_median", "norm_q75", "norm_max")] == pytest.approx(expected)
        shares = np.sort((x**2).sum(axis=0) / (x**2).sum())[::-1]
        assert [row["top_share"], row["top3_share"]] == pytest.approx([shares[0], shares[:3].sum()])
        assert row["n"] == N
    assert (rows[0]["massive"], rows[0]["massive_dims"]) == (0, "")
    assert (rows[1]["top_dim"], rows[1]["massive"]) == (21, 1)  # only the constant is above 10 times the average
    drawing = (tmp_path / "f.svg").read_text()
    assert re.search(r'aria-label="eoi, layer 1: dimension 21 makes 0\.\d{3}', drawing)
    assert f"n = {N} vectors of a role; massive dimensions: at most 1; band: q25 to q75" in drawing
    _, rows, _ = command(capsys, "outliers", store, "--times", 5, "--layers", 1)
    assert rows[0]["massive_dims"] == "21,7"


def test_vectors_that_are_all_zero_are_drawn(tmp_path, capsys):
    plan = pl.DataFrame({"sample_id": ["a", "b"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=3)
    rows = plan.with_columns(role=pl.lit("eoi"))
    store.write(0, samples=plan, rows=rows, residual={"eoi": np.zeros((1, 2, 3), np.float32)})
    status, rows, _ = command(capsys, "outliers", store.path, "--figure", tmp_path / "f.svg")
    assert (status, rows[0]["norm_max"], rows[0]["top_share"]) == (0, 0, 0)
    assert "median norm 0" in (tmp_path / "f.svg").read_text()


def test_every_role_by_itself(tmp_path, capsys):
    two = two_sided.make(tmp_path / "s")
    _, rows, _ = command(capsys, "outliers", two, "from rows where prompt_order = 'image-text'", "--layers", 2)
    assert [row["role"] for row in rows] == ["eoi", "random-image", "random-text"]
    for row in rows:
        norms = np.linalg.norm(two_sided.vectors(row["role"], "image-text", 2).astype(np.float64), axis=1)
        assert row["norm_median"] == pytest.approx(np.median(norms))
        assert row["n"] == two_sided.N


def test_without_them_the_neighbours_are_right(store, capsys):
    y = np.arange(N) % 3
    _, with_them, _ = command(capsys, "overlap", store, "-k", 5, "--layers", 1)
    _, without, _ = command(capsys, "overlap", store, "-k", 5, "--layers", 1, "--drop-dims", "21,7")
    assert without[0]["overlap"] == label_overlap(np.delete(vectors(1), MASSIVE, axis=1), y, 5)
    assert without[0]["overlap"] > with_them[0]["overlap"] + 0.3


def test_centring_matters_for_directions(store, capsys):
    asked = ("overlap", store, "-k", 5, "--layers", 0, "--metric", "cosine")
    _, plain, _ = command(capsys, *asked)
    _, centred, _ = command(capsys, *asked, "--center")
    x = vectors(0).astype(np.float64)
    expected = label_overlap((x - x.mean(axis=0)).astype(np.float32), np.arange(N) % 3, 5, metric="cosine")
    assert centred[0]["overlap"] == pytest.approx(expected)
    assert centred[0]["overlap"] != plain[0]["overlap"]


def test_parts_add_up():
    x = np.random.default_rng(0).standard_normal((50, 6))
    together, apart = Magnitudes.of(x), magnitudes([x[:20], x[20:]])
    np.testing.assert_allclose(apart.norms, together.norms)
    np.testing.assert_allclose(apart.shares, together.shares)
    assert together.shares.sum() == pytest.approx(1)
    assert Magnitudes.of(np.zeros((2, 3))).shares.tolist() == [0, 0, 0]


def test_bad_vectors_are_named():
    with pytest.raises(ActstoreError, match="row 1 holds NaN"):
        Magnitudes.of(np.array([[1.0], [np.nan]]))
    with pytest.raises(ActstoreError, match="no vectors"):
        magnitudes([])


def test_bad_input_is_one_clear_line(store, capsys):
    assert run(["outliers", str(store), "--roles", "eio"]) == 1
    assert "did you mean 'eoi'" in capsys.readouterr().err
    assert run(["outliers", str(store), "from rows where label = 'z'"]) == 1
    assert "the query selects no row of role 'eoi'" in capsys.readouterr().err
    assert run(["overlap", str(store), "--drop-dims", "x"]) == 2
    assert "'x' is no dimension" in capsys.readouterr().err


def test_report_shows_it(store, tmp_path):
    assert run(["outliers", str(store), "--times", "5"]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert ">Norms and massive dimensions" in page
    assert "more than 5 times that of the average" in page
