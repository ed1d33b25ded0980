"""actstore gap, end to end on a small store made with numpy."""

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.charts import charts
from actstore_analyze.gap import figure as gap_figure
from actstore_analyze.gap.study import Gap
from two_sided import LAYERS, ORDERS, ROLES, D, N, both, command, make, vectors


def cosines(text, image):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image)]
    return unit[0] @ unit[1].T


def test_gap_is_the_quartiles_of_the_unmatched_cosines(store, capsys):
    status, rows, err = command(capsys, "gap", store)
    assert status == 0
    assert "saved as" in err
    assert [row["layer"] for row in rows] == list(LAYERS)
    assert [row["depth"] for row in rows] == [0, 0.5, 1]
    for row in rows:
        values = cosines(*both(row["layer"]))[~np.eye(N, dtype=bool)]
        assert [row["q25"], row["median"], row["q75"]] == pytest.approx(
            np.quantile(values, [0.25, 0.5, 0.75]), abs=2e-6
        )
        assert (row["n_text"], row["n_image"], row["pairs"]) == (N, N, "unmatched")
    assert rows[2]["median"] < rows[0]["median"]


@pytest.mark.parametrize("pairs", ["unmatched", "all", "lower", "matched"])
def test_the_interval_is_woodruffs_with_each_sample_left_out(store, capsys, pairs):
    _, (row,), _ = command(capsys, "gap", store, "--layers", 1, "--pairs", pairs)
    asked = {"unmatched": ~np.eye(N, dtype=bool), "all": np.ones((N, N), bool), "matched": np.eye(N, dtype=bool)}
    kept = {**asked, "lower": np.tri(N, k=-1, dtype=bool)}[pairs]
    values = cosines(*both(1))
    below = values <= row["median"] + 1e-6
    others = [np.delete(np.delete(np.stack([below & kept, kept]), i, 1), i, 2) for i in range(N)]
    shares = np.array([counted.sum() / every.sum() for counted, every in others])
    error = np.sqrt((N - 1) / N * np.square(shares - shares.mean()).sum())
    ends = np.quantile(values[kept], [0.5 - 1.959964 * error, 0.5 + 1.959964 * error])
    assert (row["low"], row["high"]) == pytest.approx(tuple(ends), abs=4e-6)


def test_gap_pairs_the_two_prompts_of_a_sample(store, capsys):
    _, rows, _ = command(capsys, "gap", store, "--pairs", "matched", "--absolute", "--layers", 2)
    matched = np.abs(np.diag(cosines(*both(2))))
    assert rows[0]["median"] == pytest.approx(np.median(matched), abs=2e-6)


def test_gap_of_rows_chosen_by_sql(store, capsys):
    asked = ("gap", store, "from rows where split = 'test'", "--text", "role = 'eoi' and prompt_order = 'image-text'")
    _, rows, _ = command(capsys, *asked, "--layers", 1)
    values = cosines(vectors("eoi", "image-text", 1)[60:], both(1)[1][60:])[~np.eye(20, dtype=bool)]
    assert rows[0]["median"] == pytest.approx(np.median(values), abs=2e-6)


def test_gap_centred_and_without_a_dimension(store, capsys):
    _, rows, _ = command(capsys, "gap", store, "--center", "--drop-dims", "0,3", "--layers", 2, "--pairs", "all")
    text, image = (np.delete(x, [0, 3], axis=1) for x in both(2))
    mean = np.concatenate([text, image]).mean(axis=0)
    assert rows[0]["median"] == pytest.approx(np.median(cosines(text - mean, image - mean)), abs=2e-6)


@pytest.mark.parametrize("pairs", ["all", "unmatched", "lower", "matched"])
def test_gap_of_parts_is_that_of_all(store, pairs, monkeypatch):
    call = Gap(layers=LAYERS, pairs=pairs, center=True, drop_dims=(3,))
    opened, read = actstore.open(store), []
    whole = call.table(opened, say=print)
    monkeypatch.setattr("actstore_analyze.gap.study.PART_BYTES", 4 * D * 33)  # of 80 vectors
    residual = opened.residual
    monkeypatch.setattr(opened, "residual", lambda rows, **of: read.append(len(rows)) or residual(rows, **of))
    parts = call.table(opened, say=print)
    assert max(read) == 33
    quartiles = ("q25", "median", "q75")
    assert parts.drop(quartiles).equals(whole.drop(quartiles))
    for name in quartiles:
        assert parts[name].to_list() == pytest.approx(whole[name].to_list(), abs=2e-6)


def test_a_zero_vector_beyond_the_first_part_is_said(tmp_path, monkeypatch):
    x = {
        role: np.stack([np.concatenate([vectors(role, order, layer) for order in ORDERS]) for layer in LAYERS])
        for role in ROLES
    }
    x["random-text"][1, 70] = 0
    monkeypatch.setattr("actstore_analyze.gap.study.PART_BYTES", 4 * D * 33)
    call = Gap(layers=(1,))
    found = call.table(actstore.open(make(tmp_path / "zero", residual=x)), say=print)
    assert np.isnan(found["median"].item())
    (said,) = call.remarks(found)
    assert said.startswith("layer 1: not defined: texts from 66 and images from 0: row 4 is a zero vector")


def test_a_layer_that_holds_nothing_is_left_out_beside_one_that_does(tmp_path, capsys):
    """Both are read together."""
    plan = pl.DataFrame({"sample_id": [f"s{i}" for i in range(6)]})
    store = actstore.create(
        tmp_path / "s", plan=plan, layers=[0, 1], d_model=D, dtype="float32", run={"n_layers": 1}, image_from=1
    )
    rows = [plan.with_columns(role=pl.lit(role), modality=pl.lit(role)) for role in ("text", "image")]
    text, image = np.random.default_rng(0).standard_normal((2, 2, 6, D)).astype(np.float32)
    image[0] = np.nan
    store.write(0, samples=plan, rows=pl.concat(rows), residual={"text": text, "image": image})
    asked = ("--text", "role = 'text'", "--image", "role = 'image'", "--pairs", "all")
    status, found, err = command(capsys, "gap", store.path, *asked)
    assert (status, [row["layer"] for row in found]) == (0, [1])
    assert found[0]["median"] == pytest.approx(np.median(cosines(text[1], image[1])), abs=2e-6)
    assert "takes the image in at layer 1" in err
    status, _, err = command(capsys, "gap", store.path, *asked, "--layers", "0")
    assert status == 1
    assert "layer 0: some of these vectors are of an image" in err


def test_gap_of_each_condition_is_its_own(tmp_path, capsys):
    """Vectors under a knockout are never paired with those without."""
    samples = pl.DataFrame({"sample_id": [f"s{i}" for i in range(6)]})
    plan = pl.concat([samples.with_columns(condition=pl.lit(name)) for name in ("none", "cut")])
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=D, dtype="float32", run={"n_layers": 1})
    roles = {role: np.random.default_rng(seed).standard_normal((12, D)) for seed, role in enumerate(("eoi", "last"))}
    rows = pl.concat([plan.with_columns(role=pl.lit(role)) for role in roles])
    residual = {role: x[None].astype(np.float32) for role, x in roles.items()}
    store.write(0, samples=plan.with_columns(status=pl.lit("ok")), rows=rows, residual=residual)
    sides = ("--text", "role = 'last'", "--image", "role = 'eoi'")
    status, found, _ = command(capsys, "gap", store.path, *sides, "--pairs", "all")
    assert status == 0
    values = {
        name: cosines(roles["last"][own], roles["eoi"][own])
        for name, own in (("none", slice(6)), ("cut", slice(6, 12)))
    }
    assert {one["condition"]: one["median"] for one in found} == pytest.approx(
        {name: np.median(cosine) for name, cosine in values.items()}, abs=2e-6
    )


def test_a_store_without_two_orders_says_what_to_do(tmp_path, capsys):
    plan = pl.DataFrame({"sample_id": ["a", "b"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2)
    assert run(["gap", str(store.path)]) == 1
    assert "choose its text rows with --text CONDITION" in capsys.readouterr().err


def test_charts_side_by_side_have_one_axis():
    table = pl.DataFrame({"condition": "none", "layer": [0, 1], "q25": -0.1, "median": 0.1, "q75": 0.3,
                          "absolute": False, "n_text": 5, "n_image": 5})  # fmt: skip
    other = table.with_columns(q75=pl.lit(0.81))
    svg = charts.svg(gap_figure.gap(table, title="t", tables=[table, other]), "a")
    assert ">0.8<" in svg


def test_a_call_is_written_as_it_was_asked(store):
    call = Gap.of(actstore.open(store), pairs="all", center=True, drop_dims=[3, 0], layers=[1])
    assert call.command(store) == f"actstore gap {store} --layers 1 --center --drop-dims 0,3 --pairs all"
    assert Gap.again(call.parameters) == call
