"""actstore cka, end to end on small stores made with numpy."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.charts import charts
from actstore_analyze.cka import Sums, figure, linear_cka, measure, study
from labelled import DIGITS, LAYERS, POSITIONS, N, make_store, sample_ids, vectors


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def command(capsys, *arguments):
    """Exit status, the table, and what was said on standard error."""
    status = run(["cka", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


def in_blocks(monkeypatch):
    """Of 7 samples, at three layers of either side."""
    monkeypatch.setattr(study, "BLOCK_BYTES", 2 * len(LAYERS) * (5 * 8 + 16 * study.COLUMNS) * 7)


@pytest.fixture(params=["whole", "in blocks"])
def cut(request, monkeypatch):
    if request.param == "in blocks":
        in_blocks(monkeypatch)


def narrow(path, ids, width=3):
    """A store of role eoi in another width and other layers, its samples in another order."""
    plan = pl.DataFrame({"sample_id": ids})
    made = actstore.create(path, plan=plan, layers=(0, 4), d_model=width, dtype="float32", run={"n_layers": 4})
    x = other(ids, width)
    made.write(0, samples=plan, rows=plan.with_columns(role=pl.lit("eoi")), residual={"eoi": x})
    return path


def other(ids, width=3):
    """(2, n, width): what `narrow` holds, by sample."""
    turn = np.random.default_rng(7).standard_normal((2, 8, width))
    own = vectors("eoi", 2)[[int(name[1:]) for name in ids], 0]
    return np.stack([own @ turn[0], own @ turn[1] + 5]).astype(np.float32)


@pytest.mark.parametrize("kind", [[], ["--unbiased"]])
@pytest.mark.usefixtures("cut")
def test_every_layer_with_every_layer(store, capsys, kind):
    status, rows, err = command(capsys, store, "--roles", "eoi,image", *kind)
    assert status == 0, err
    found = {(row["role"], row["layer"], row["with_layer"]): row for row in rows}
    assert len(rows) == len(found) == 2 * len(LAYERS) ** 2
    for (role, layer, with_layer), row in found.items():
        positions = 1 if role == "eoi" else POSITIONS
        one, two = (vectors(role, at, positions) for at in (layer, with_layer))
        each = [linear_cka(one[:, k], two[:, k], unbiased=bool(kind)) for k in range(positions)]
        assert row["cka"] == pytest.approx(np.mean(each), rel=1e-5, abs=1e-6, nan_ok=True) or row["cka"] is None
        assert (row["cka"] is None or np.isnan(row["cka"])) == (role == "eoi" and 0 in (layer, with_layer))
        assert row["positions"] == (0 if np.isnan(each).all() else positions)
        assert (row["n"], row["depth"], row["with_depth"]) == (N, layer / 4, with_layer / 4)
        assert (row["with_role"], row["with_store"], row["unbiased"]) == (role, None, bool(kind))
        is_defined = row["positions"] > 0
        assert row["reason"] == (None if is_defined else "all vectors of 'eoi' at layer 0 are the same")
    assert "not defined: all vectors of 'eoi' at layer 0 are the same" in err


def test_blocks_and_processes_change_nothing(store, capsys, monkeypatch):
    """Of 7 samples; and the same bits by one process and by two."""
    whole = study.Cka.of(actstore.open(store), roles=["image"]).table(actstore.open(store), say=print)
    with monkeypatch.context() as patch:
        patch.setattr(measure, "COLUMNS", 5)
        in_blocks(patch)
        call = study.Cka.of(actstore.open(store), roles=["image"])
        cut = call.pieces(actstore.open(store), call.units(actstore.open(store), say=print))
        assert [len(piece.rows[0]) for piece in cut] == POSITIONS * [*[7] * 12, 4]
        pieces = call.table(actstore.open(store), say=print)
    values = ["cka", "low", "high"]
    assert pieces.drop(values).equals(whole.drop(values))
    np.testing.assert_allclose(pieces[values], whole[values], rtol=1e-5, atol=1e-5)
    _, alone, _ = command(capsys, store, "--roles", "image,eoi")
    status, shared, _ = command(capsys, store, "--roles", "image,eoi", "--jobs", 2, "--force")
    assert (status, shared) == (0, alone)


@pytest.mark.parametrize("kind", [[], ["--unbiased"]])
def test_intervals_are_of_samples_left_out_at_all_positions_of_a_role(store, capsys, kind):
    _, rows, _ = command(capsys, store, "--roles", "image", "--layers", "1,2", *kind)
    row = next(row for row in rows if (row["layer"], row["with_layer"]) == (1, 2))
    one, two = (vectors("image", at, POSITIONS) for at in (1, 2))
    left = [
        np.mean([linear_cka(*(np.delete(x[:, k], i, 0) for x in (one, two)), unbiased=bool(kind))
                 for k in range(POSITIONS)]) for i in range(N)
    ]  # fmt: skip
    pairs = [
        Sums.of(tuple([x[:, k] - x[:, k].mean(0)] for x in (one, two))).of_pairs(unbiased=bool(kind)).item()
        for k in range(POSITIONS)
    ]  # fmt: skip
    error = np.sqrt((N - 1) / N * np.square(left - np.mean(left)).sum() - np.sum(pairs) / POSITIONS**2)
    ends = np.tanh(np.arctanh(row["cka"]) + np.array([-1.959964, 1.959964]) * error / (1 - row["cka"] ** 2))
    assert (row["low"], row["high"]) == pytest.approx((ends[0] if kind else max(ends[0], 0), ends[1]), abs=1e-4)
    same = next(row for row in rows if row["layer"] == row["with_layer"])
    assert (same["low"], same["high"]) == (1, 1)
    _, rows, _ = command(capsys, store, "--roles", "image", "--layers", "1,2", *kind, "--no-interval")
    assert {row["low"] for row in rows} == {row["high"] for row in rows} == {None}


def test_too_few_samples_to_leave_one_out_have_no_interval(store, capsys):
    asked = ("--roles", "image", "--layers", "1,2")
    for n, kind, has in ((2, [], False), (3, [], True), (4, ["--unbiased"], False), (5, ["--unbiased"], True)):
        _, rows, _ = command(capsys, store, f"from rows where sample_id < 's00{n}'", *asked, *kind)
        assert ({row["n"] for row in rows}, any(row["low"] is not None for row in rows)) == ({n}, has)


@pytest.mark.usefixtures("cut")
def test_another_store_of_another_width_whose_samples_are_in_another_order(store, tmp_path, capsys):
    ids = sample_ids()[::-1][:40]
    there = narrow(tmp_path / "narrow", ids)
    status, rows, err = command(capsys, store, "--roles", "eoi", "--layers", "1,2", "--with-store", there)
    assert status == 0
    assert "role 'eoi': 20 of 60 samples have no counterpart; left out" in err
    assert [(row["layer"], row["with_layer"]) for row in rows] == [(1, 0), (1, 4), (2, 0), (2, 4)]
    places = [int(name[1:]) for name in ids]
    for row in rows:
        own = vectors("eoi", row["layer"])[places, 0]
        assert row["cka"] == pytest.approx(linear_cka(own, other(ids)[row["with_layer"] // 4]), rel=1e-5)
        assert (row["with_store"], row["n"], row["with_depth"]) == ("narrow", 40, row["with_layer"] / 4)


@pytest.mark.usefixtures("cut")
def test_another_role(store, capsys):
    asked = ("--roles", "image", "--with-role", "eoi", "--layers", "2", "--with-layers", "1..2", "--positions", 1)
    status, rows, _ = command(capsys, store, *asked)
    assert status == 0
    candidates = [
        [linear_cka(vectors("image", 2, POSITIONS)[:, k], vectors("eoi", at)[:, 0]) for at in (1, 2)]
        for k in range(POSITIONS)
    ]
    found = [row["cka"] for row in rows]
    assert any(found == pytest.approx(one, rel=1e-5) for one in candidates)


@pytest.mark.usefixtures("cut")
def test_roles_that_hold_nothing_are_left_out(tmp_path, capsys):
    """Beside those that do; alone they are an error that names the layer."""
    plan = pl.DataFrame({"sample_id": [f"s{i:02}" for i in range(30)]})
    made = actstore.create(tmp_path / "s", plan=plan, layers=(0, 1), d_model=8, dtype="float32", image_from=1)
    rows = [plan.with_columns(role=pl.lit(role), modality=pl.lit(role)) for role in ("image", "text")]
    x = np.random.default_rng(0).standard_normal((2, 2, 30, 8)).astype(np.float32)
    x[0, 0] = np.nan
    made.write(0, samples=plan, rows=pl.concat(rows), residual={"image": x[:, 0], "text": x[:, 1]})
    status, found, err = command(capsys, tmp_path / "s", "--roles", "image,text")
    assert (status, {row["role"] for row in found}) == (0, {"text"})
    assert "takes the image in at layer 1" in err
    for more in ([], ["--with-role", "text"]):
        status, _, err = command(capsys, tmp_path / "s", "--roles", "image", *more)
        assert status == 1
        assert "layer 0: some of these vectors are of an image" in err


def test_the_same_call_is_recalled_and_stands_in_a_report(store, tmp_path, capsys):
    assert "saved as" in command(capsys, store, "--roles", "eoi")[2]
    assert "recalled from" in command(capsys, store, "--roles", "eoi")[2]
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "Linear CKA with other layers" in text
    assert (tmp_path / "r_files" / "linear-cka-with-other-layers.csv").exists()


def test_figure(store, tmp_path, capsys):
    status, _, _ = command(capsys, store, "--roles", "eoi,image", "--figure", tmp_path / "f.png")
    assert status == 0
    assert (tmp_path / "f.png").stat().st_size > 1000
    opened = actstore.open(store)
    table = study.Cka.of(opened, roles=["image"]).table(opened, say=print)
    marks = charts.svg(figure.cka(table, title="tiny"), "a")
    best = table.filter(pl.col("layer") == 2, pl.col("with_layer") != 2).sort("cka")["with_layer"][-1]
    value = table.filter(layer=2, with_layer=best)["cka"][0]
    assert marks.count(f"image, layer 2 with image, layer {best}: {value:.3f}, 95 % interval ") >= 1
    assert "ring: the layer that a row is most like" in marks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--roles", "nobody"], "no role 'nobody'"),
        (["--layers", "9"], "layer 9 is not in this store"),
        (["--with-layers", "9"], "layer 9 is not in this store"),
        (["--with-role", "nobody"], "no role 'nobody'"),
        (["--with-store", "nowhere"], "nowhere is not a store"),
        (["--with-condition", "eoi-knockout"], "no rows of role 'eoi' under condition 'eoi-knockout'"),
        (["from rows where sample_id < 's003'", "--unbiased"], "unbiased CKA needs 4 samples; these are 3"),
    ],
)
def test_bad_input_is_one_clear_line(store, capsys, options, message):
    status, rows, err = command(capsys, store, *options)
    assert (status, rows) == (1, [])
    assert message in err
    assert "Traceback" not in err


def test_samples_of_no_store_in_common(store, tmp_path, capsys):
    plan = pl.DataFrame({"sample_id": [f"other{name}" for name in DIGITS]})
    there = actstore.create(tmp_path / "other", plan=plan, layers=(0,), d_model=2, dtype="float32")
    rows = plan.with_columns(role=pl.lit("eoi"))
    there.write(0, samples=plan, rows=rows, residual={"eoi": np.ones((1, 3, 2), np.float32)})
    status, _, err = command(capsys, store, "--roles", "eoi", "--with-store", tmp_path / "other")
    assert status == 1
    assert "no sample in common" in err
