"""actstore overlap and actstore results, end to end on a small store made with numpy."""

import errno
import json
import re

import numpy as np
import polars as pl
import pytest

import actstore
from actstore import ActstoreError
from actstore.commands.main import run
from actstore.format import results
from actstore_analyze.overlap.measure import chance_level, label_overlap, label_overlap_per_point
from actstore_analyze.overlap.study import Overlap
from actstore_analyze.study.intervals import LeftOut, jackknifed
from actstore_analyze.study.selection import choose
from labelled import DIGITS, POSITIONS, N, make_store, overlaps_left, sample_ids, vectors, write_batch


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def command(capsys, *arguments):
    """Exit status, the table, and what was said on standard error."""
    status = run([*map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


def naive(x, y, k):
    """The definition, point by point."""
    shares = []
    for i in range(len(x)):
        away = ((x - x[i]) ** 2).sum(axis=1)
        away[i] = np.inf
        shares.append(np.mean(y[np.argsort(away, kind="stable")[:k]] == y[i]))
    return np.mean(shares)


def test_one_vector_per_sample(store, capsys):
    status, rows, err = command(capsys, "overlap", store, "--roles", "eoi", "-k", 5)
    assert status == 0
    x = vectors("eoi", 2)[:, 0].astype(np.float32)
    y = np.arange(N) % 3
    deepest = rows[-1]
    assert deepest["overlap"] == label_overlap(x, y, 5)
    assert deepest["overlap"] == pytest.approx(naive(x, y, 5))
    assert deepest["chance"] == pytest.approx(chance_level(y))
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert [row["depth"] for row in rows] == [0, 0.25, 0.5]
    assert {row["n"] for row in rows} == {N}
    assert all(row["se"] is None for row in rows)
    ends = jackknifed(deepest["overlap"], overlaps_left(x, y, 5))
    assert (deepest["low"], deepest["high"]) == pytest.approx(ends)
    assert deepest["low"] < deepest["overlap"] < deepest["high"]
    for other in (["--unique"], ["--weights", "class"]):  # where that is no interval
        _, found, _ = command(capsys, "overlap", store, "--roles", "eoi", "-k", 5, *other)
        assert [row["low"] for row in found] == [None] * 3
    for k, is_there in ((N - 3, True), (N - 2, False)):  # of N - 1 samples each has N - 2 neighbours, wherever it lies
        _, found, _ = command(capsys, "overlap", store, "--roles", "eoi", "-k", k)
        assert (found[-1]["low"] is not None) == is_there
    expected = (
        "role condition layer depth overlap low high se positions chance neighbors metric weights n copies reason"
    )
    assert " ".join(deepest) == expected
    assert "saved as" in err.splitlines()[-1]


@pytest.mark.parametrize("weights", ["uniform", "class"])
def test_classes_too_small_for_k_are_said(tmp_path, capsys, weights):
    """Of 60 samples 50 are a, 10 are b; perfectly apart, they reach the ceiling that is said."""
    store = make_store(tmp_path / "s", labels=["b" if i % 6 == 0 else "a" for i in range(N)])
    sizes = np.array([10 if i % 6 == 0 else 50 for i in range(N)])
    share = np.minimum((sizes - 1) / 12, 1)
    most = share.mean() if weights == "uniform" else (9 / 12 + 1) / 2
    asked = ("overlap", store, "--roles", "eoi,image", "--layers", "1", "--weights", weights)
    said = f"but the smallest class has 10 samples: the overlap cannot reach 1, at most {most:.3g}; with -k 9 it can"
    assert command(capsys, *asked, "-k", 12)[2].count(said) == 1
    assert command(capsys, *asked, "-k", 10)[2].count("at most") == 1
    assert "cannot reach 1" not in command(capsys, *asked, "-k", 9)[2]


def test_undefined_where_all_vectors_are_the_same(store, capsys, tmp_path):
    kept = tmp_path / "table.parquet"
    assert run(["overlap", str(store), "--roles", "eoi", "-k", "5", "-o", str(kept)]) == 0
    assert pl.read_parquet(kept)["overlap"].is_nan().to_list() == [True, False, False]
    saved = actstore.open(store).sql("from results")["name"][0]
    assert actstore.open(store).sql(f"select overlap from {saved} where layer = 0")["overlap"].is_nan().all()


def test_a_role_with_several_positions_is_averaged_over_them(store, capsys):
    _, rows, _ = command(capsys, "overlap", store, "--roles", "image", "-k", 5, "--layers", "1,2")
    y = np.arange(N) % 3
    for row, layer in zip(rows, (1, 2), strict=True):
        x = vectors("image", layer, POSITIONS).astype(np.float32)
        each = [naive(x[:, k], y, 5) for k in range(POSITIONS)]
        assert row["overlap"] == pytest.approx(np.mean(each))
        shares = np.mean([label_overlap_per_point(x[:, k], y, 5) for k in range(POSITIONS)], axis=0)
        assert row["se"] == pytest.approx(np.std(shares, ddof=1) / np.sqrt(N))
        assert row["positions"] == POSITIONS
        left = LeftOut.mean([overlaps_left(x[:, k], y, 5) for k in range(POSITIONS)])
        assert (row["low"], row["high"]) == pytest.approx(jackknifed(row["overlap"], left))


def test_positions_are_drawn_by_seed(store, capsys):
    y = np.arange(N) % 3
    x = vectors("image", 2, POSITIONS).astype(np.float32)
    each = [naive(x[:, k], y, 5) for k in range(POSITIONS)]
    asked = ("overlap", store, "--roles", "image", "-k", 5, "--layers", "2", "--positions", 1)
    drawn = {command(capsys, *asked, "--seed", seed)[1][0]["overlap"] for seed in range(8)}
    assert len(drawn) > 1
    assert all(np.isclose(value, each).any() for value in drawn)


def test_blocks_of_positions_read_apart_give_the_same(store, capsys, monkeypatch):
    asked = ("overlap", store, "--roles", "image", "-k", 5)
    _, together, _ = command(capsys, *asked)
    monkeypatch.setattr("actstore_analyze.study.units.BLOCK_BYTES", 1)
    assert command(capsys, *asked, "--force")[1] == together


def test_positions_that_some_samples_lack_are_left_out(store, capsys):
    some = "from rows where not (role = 'image' and k = 2 and sample_id = 's000')"
    _, rows, err = command(capsys, "overlap", store, some, "--roles", "image", "-k", 5)
    assert rows[0]["positions"] == 2
    assert "1 of 3 positions are not in every sample" in err


@pytest.mark.parametrize(
    ("sql", "n"),
    [
        ("from rows where split = 'test'", 30),
        ("select row_id from rows where split = 'test' -- held out", 30),
        ("from rows where split = 'test';", 30),
        ("select row_id, role, label from rows", 60),
    ],
)
def test_sql_chooses_rows(store, capsys, sql, n):
    _, rows, _ = command(capsys, "overlap", store, sql, "--roles", "eoi", "--layers", "2", "-k", 5)
    assert rows[0]["n"] == n
    x, chosen = vectors("eoi", 2)[:, 0].astype(np.float32), slice(0, None, N // n)
    assert rows[0]["overlap"] == pytest.approx(naive(x[chosen], (np.arange(N) % 3)[chosen], 5))


def test_label_computed_by_the_query(store, capsys):
    sql = "select row_id, label = 'zero' as is_zero from rows"
    asked = ("overlap", store, sql, "--roles", "eoi", "--label", "is_zero", "--layers", "2", "-k", 5)
    _, rows, _ = command(capsys, *asked, "--weights", "class", "--metric", "cosine")
    x, y = vectors("eoi", 2)[:, 0].astype(np.float32), np.arange(N) % 3 == 0
    assert rows[0]["overlap"] == pytest.approx(label_overlap(x, y, 5, metric="cosine", weights="class"))
    assert (rows[0]["metric"], rows[0]["weights"]) == ("cosine", "class")


def test_rows_without_a_label_are_left_out_and_said(tmp_path, capsys):
    store = make_store(tmp_path / "store", labels=[None if i < 12 else DIGITS[i % 3] for i in range(N)])
    _, rows, err = command(capsys, "overlap", store, "--roles", "eoi", "-k", 5)
    assert rows[0]["n"] == 48
    assert "left out: 12 of 60 rows, which have no 'label'" in err


def test_usual_roles_and_all_layers(store, capsys):
    _, rows, _ = command(capsys, "overlap", store, "-k", 5)
    assert [(row["role"], row["layer"]) for row in rows] == [("eoi", 0), ("eoi", 1), ("eoi", 2)]
    _, aliased, err = command(capsys, "overlap", store, "-k", 5, "--roles", "end-image,eoi", "--layers", "0..2")
    assert aliased == rows
    assert "recalled" in err


def test_a_result_of_a_version_without_intervals_is_computed_again(store, capsys):
    opened = actstore.open(store)
    call = Overlap.of(opened, roles=["eoi"], k=5)
    table = call.table(opened, say=print).drop("low", "high")
    opened.save_result("overlap", table, {name: one for name, one in call.parameters.items() if name != "interval"})
    capsys.readouterr()
    _, rows, err = command(capsys, "overlap", store, "--roles", "eoi", "-k", 5)
    assert "recalled" not in err
    assert all(row["low"] <= row["overlap"] <= row["high"] for row in rows[1:])


def test_the_same_call_is_recalled_until_the_store_grows(tmp_path, capsys, monkeypatch):
    store = make_store(tmp_path / "store", batches=1)
    asked = ("overlap", store, "--roles", "eoi", "-k", 5)
    _, first, err = command(capsys, *asked)
    assert "saved as" in err

    def fail(*_arguments, **_named):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr("actstore_analyze.overlap.study.label_overlap_from", fail)
        status, again, err = command(capsys, *asked)
        assert (status, again) == (0, first)
        assert "recalled from" in err
        with pytest.raises(AssertionError, match="computed again"):
            run([*map(str, asked), "--force"])
    write_batch(actstore.open(store), 1, 40, 20)
    _, grown, err = command(capsys, *asked)
    assert (first[0]["n"], grown[0]["n"]) == (40, 60)
    assert "saved as" in err
    _, listed, _ = command(capsys, "results", store)
    assert sorted(row["current"] for row in listed) == [False, True]
    assert {row["measure"] for row in listed} == {"overlap"}
    assert listed[0]["parameters"]["k"] == 5


def test_without_the_usual_label_the_option_is_named(tmp_path):
    """And not the column whose name is most like `label`, which nobody typed."""
    empty = actstore.create(
        tmp_path / "s", plan=pl.DataFrame({"batch": [0], "sample_id": ["a"]}), layers=[0], d_model=2
    )
    with pytest.raises(ActstoreError, match=r"no column 'label' to take labels from, only .*; --label takes another$"):
        choose(empty, "from rows", ["eoi"], "label", say=print)


def test_a_store_that_cannot_be_written_still_answers(store, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(results, "write_arrow", full)
    status, rows, err = command(capsys, "overlap", store, "--roles", "eoi", "-k", 5)
    assert status == 4
    assert len(rows) == 3
    assert "not saved" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--roles", "eio"], r"no role 'eio' in .*, which has eoi, image; did you mean 'eoi'\?"),
        (["--label", "lable"], r"no column 'lable' to take labels from, only .*; did you mean 'label'\?"),
        (["-k", "60"], "k = 60, but role 'eoi' has 60 samples: take k < 60"),
        (["--layers", "0,7"], r"layer 7 is not in this store; it has 0\.\.2"),
        (["from rows where label = 'ten'"], "nothing to measure: the query selects no rows of these roles"),
        (["from rows where role = 'image'", "--roles", "image,eoi"], "no labelled row of role 'eoi'"),
        (["select label from rows"], "the query gives no row_id, only label"),
        (["select row_id from rows union all select row_id from rows"], "a row_id more than once"),
        (["from rows where splt = 'test'"], r"no column 'splt'; did you mean 'split'\?"),
        (["--label", "error"], "all 60 rows have no 'error'"),
    ],
)
def test_bad_input_is_one_clear_line(store, capsys, arguments, message):
    status = run(["overlap", str(store), "-k", "5", "--roles", "eoi", *arguments])
    out, err = capsys.readouterr()
    assert status == 1
    assert out == ""
    assert err.startswith("actstore: ")
    assert re.search(message, err)
    assert not list((store / "results").iterdir())


def test_wrong_usage(store, capsys):
    assert run(["overlap", str(store), "--layers", "x"]) == 2
    assert "'x' is no layer; for example: 0,4,8 or 0..8" in capsys.readouterr().err


def test_not_a_store(tmp_path, capsys):
    assert run(["overlap", str(tmp_path)]) == 1
    assert "is not a store" in capsys.readouterr().err


def test_vectors_that_cannot_be_measured_name_role_and_layer(tmp_path, capsys):
    plan = pl.DataFrame({"sample_id": sample_ids(0, 8), "label": list("aabbaabb")})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[3], d_model=2, dtype="float32")
    x = np.random.default_rng(0).standard_normal((1, 8, 2))
    x[0, 5] = 0
    rows = pl.DataFrame({"sample_id": sample_ids(0, 8), "role": "last", "k": 0})
    samples = pl.DataFrame({"sample_id": sample_ids(0, 8), "status": "ok"})
    store.write(0, samples=samples, rows=rows, residual={"last": x})
    assert run(["overlap", str(store.path), "-k", "2", "--metric", "cosine"]) == 0
    assert "role 'last', layer 3: not defined: row 5 is a zero vector" in capsys.readouterr().err


def test_conditions_are_never_each_others_neighbours(tmp_path, capsys):
    both = [(sample, condition) for condition in ("none", "eoi->text") for sample in sample_ids(0, 12)]
    frame = pl.DataFrame(both, schema=["sample_id", "condition"], orient="row")
    plan = frame.with_columns(label=pl.Series(list("abc") * 8))
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0, 1], d_model=3, dtype="float32")
    x = np.random.default_rng(1).standard_normal((2, 12, 3)).astype(np.float32)
    rows = frame.with_columns(role=pl.lit("eoi"), k=pl.lit(0))
    store.write(0, samples=frame.with_columns(status=pl.lit("ok")), rows=rows, residual={"eoi": np.tile(x, (1, 2, 1))})
    _, rows, _ = command(capsys, "overlap", store.path, "-k", 3)
    assert [row["condition"] for row in rows] == ["eoi->text"] * 2 + ["none"] * 2
    expected = [naive(x[layer], np.arange(12) % 3, 3) for layer in (0, 1)]
    assert [row["overlap"] for row in rows] == pytest.approx(expected * 2)


@pytest.mark.parametrize(("name", "magic"), [("overlap.png", b"\x89PNG"), ("new/overlap.svg", b"<svg")])
def test_overlap_draws_its_figure(tmp_path, name, magic):
    make_store(tmp_path / "s")
    assert run(["overlap", str(tmp_path / "s"), "--figure", str(tmp_path / name), "-k", "5"]) == 0
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_a_figure_of_another_kind_is_refused(tmp_path, capsys):
    make_store(tmp_path / "s")
    assert run(["overlap", str(tmp_path / "s"), "--figure", str(tmp_path / "x.gif"), "-k", "5"]) == 1
    assert "a figure is written as .png, .svg, .pdf, not '.gif'" in capsys.readouterr().err
