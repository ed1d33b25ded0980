"""actstore knockout: what is left under knockouts, on a small store made with numpy and on the demo's models."""

import json
import re

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.charts import charts
from actstore_analyze.knockout import figure as knockout_figures
from actstore_analyze.knockout.study import Knockout
from actstore_analyze.knockout.table import Side, side_by_side
from actstore_analyze.overlap.measure import label_overlap
from actstore_analyze.published import curves
from actstore_analyze.report import causal
from actstore_analyze.score import cider, vqa_accuracy
from actstore_analyze.study.intervals import jackknifed, paired, wilson
from actstore_analyze.study.knocked import Knocked, knocked
from extracting import extract
from knockouts import BLOCKS, CONDITIONS, N, block, make_store, vectors
from labelled import overlaps_left


def command(capsys, *arguments):
    """Exit status, the table, and what was said on standard error."""
    status = run(["knockout", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


def table(path, **asked):
    store = actstore.open(path)
    return Knockout.of(store, **{"k": 5, **asked}).table(store, say=lambda _: None)


def values(found, metric):
    own = found.filter(metric=metric).select("knockout", "window", "value")
    return {(name, window): value for name, window, value in own.iter_rows()}


def test_which_conditions_are_knockouts_and_where(tmp_path):
    assert knocked(actstore.open(make_store(tmp_path / "s"))) == [
        Knocked("none", "none", 0, None),
        Knocked("eoi-knockout-w1", "eoi-knockout", 1, "post"),
        Knocked("eoi-knockout-w2", "eoi-knockout", 2, "post"),
        Knocked("early", "early", None, "post"),
        Knocked("random-image-3-knockout-r1", "random-image-3-knockout", 2, "post"),
        Knocked("random-image-3-knockout-r2", "random-image-3-knockout", 2, "post"),
    ]


def test_an_ending_that_is_part_of_the_name_stays(tmp_path):
    named = {"none": [], "mine-w2": block("eoi", [0]), "eoi-r1": block("eoi", [0, 1])}
    found = knocked(actstore.open(make_store(tmp_path / "s", conditions=named)))
    assert [(one.knockout, one.window) for one in found] == [("none", 0), ("mine-w2", None), ("eoi-r1", 2)]


def test_label_overlap_and_next_tokens(tmp_path, capsys):
    _, rows, err = command(capsys, make_store(tmp_path / "s"), "-k", 5)
    expected = "knockout window blocks mode metric value low high difference difference_low "
    expected += "difference_high spread repeats chance n"
    assert " ".join(rows[0]) == expected
    assert "saved as" in err
    found = pl.DataFrame(rows, infer_schema_length=None)
    labels = np.repeat([0, 1], N // 2)
    each = {name: label_overlap(vectors(name), labels, 5) for name in CONDITIONS}
    drawn = [each[f"random-image-3-knockout-r{i}"] for i in (1, 2)]
    assert values(found, "overlap") == pytest.approx(
        {
            ("none", 0): each["none"],
            ("eoi-knockout", 1): each["eoi-knockout-w1"],
            ("eoi-knockout", 2): each["eoi-knockout-w2"],
            ("early", None): each["early"],
            ("random-image-3-knockout", 2): np.mean(drawn),
        }
    )
    assert values(found, "accuracy") == {
        ("none", 0): 1.0,
        ("eoi-knockout", 1): 39 / 40,
        ("eoi-knockout", 2): 38 / 40,
        ("early", None): 37 / 40,
        ("random-image-3-knockout", 2): pytest.approx((36 + 35) / 80),
    }
    repeated = found.filter(knockout="random-image-3-knockout")
    assert repeated["repeats"].to_list() == [2, 2, 2]
    overlap, accuracy, probability = repeated.iter_rows(named=True)
    assert overlap["spread"] == pytest.approx(np.std(drawn, ddof=1))
    assert accuracy["spread"] == pytest.approx(np.std([36 / 40, 35 / 40], ddof=1))
    assert probability["spread"] == 0
    (one,) = found.filter(metric="accuracy", window=1).iter_rows(named=True)
    assert (one["low"], one["high"]) == pytest.approx(wilson(39, 40))
    assert (one["spread"], one["repeats"], one["n"], one["chance"]) == (None, 1, N, 0.5)
    assert (one["difference"], one["difference_low"], one["difference_high"]) == pytest.approx(
        (-1 / 40, *paired(np.repeat([-1.0, 0.0], [1, 39])))
    )
    (one,) = found.filter(metric="overlap", window=1).iter_rows(named=True)
    plain, blocked = (overlaps_left(vectors(name), labels, 5) for name in ("none", "eoi-knockout-w1"))
    apart, pairs = blocked.without - plain.without, blocked.pairs - plain.pairs
    variance = (N - 1) / N * np.square(apart - apart.mean()).sum()
    half = 1.959964 * np.sqrt(max(variance - np.square(pairs).mean(), variance / 2))
    assert one["difference"] == pytest.approx(one["value"] - each["none"])
    assert (one["difference_low"], one["difference_high"]) == pytest.approx(
        (one["difference"] - half, one["difference"] + half)
    )
    assert (one["low"], one["high"]) == pytest.approx(jackknifed(one["value"], blocked))
    assert found.filter(knockout="none")["difference"].to_list() == [None] * 3
    p = np.array([0.5 + i / 100 if i < N // 2 else 0.1 for i in range(N)], np.float32)
    (own,) = found.filter(metric="answer_probability", knockout="none").iter_rows(named=True)
    half = 1.959964 * p.std(ddof=1) / np.sqrt(N)
    assert (own["value"], own["high"] - own["value"]) == pytest.approx((p.mean(), half), rel=1e-5)


def test_an_output_that_is_not_stored_is_said(tmp_path, capsys):
    asked = "-k", 5
    _, whole, err = command(capsys, make_store(tmp_path / "whole"), *asked)
    assert "is not stored" not in err
    _, early, err = command(capsys, make_store(tmp_path / "early", layers=(0, 1)), *asked)
    assert "label overlap at layer 1: the output, layer 2, is not stored" in err
    assert early == whole


def test_vectors_that_are_copies_are_said(tmp_path, capsys, monkeypatch):
    assert "identical" not in command(capsys, make_store(tmp_path / "each"), "-k", 5)[2]
    monkeypatch.setattr("knockouts.vectors", lambda name: np.repeat(vectors(name)[::2], 2, axis=0))
    _, _, err = command(capsys, make_store(tmp_path / "twice"), "-k", 5)
    assert f"label overlap: {N // 2} of {N} vectors of last under 'early' are identical with others" in err


def test_sql_chooses_samples_for_all_measures(tmp_path):
    path = make_store(tmp_path / "s")
    few = "from rows where sample_id < 's10' or sample_id >= 's30'"
    found = table(path, sql=few, k=3)
    assert found["n"].unique().to_list() == [20]
    keep = [*range(10), *range(30, N)]
    x = vectors("eoi-knockout-w1")[keep]
    assert values(found, "overlap")[("eoi-knockout", 1)] == label_overlap(x, np.repeat([0, 1], 10), 3)
    assert values(found, "accuracy")[("eoi-knockout", 2)] == 18 / 20


def test_scores_where_there_are_references(tmp_path):
    path = make_store(tmp_path / "s", labels=False, texts=True)
    found = table(path)
    assert set(found["metric"]) == {"vqa_accuracy", "vqa_of_all", "cider", "cider_d", "cider_ptb", "cider_d_ptb"}
    store = actstore.open(path)
    for name, key in {"none": ("none", 0), "eoi-knockout-w2": ("eoi-knockout", 2)}.items():
        own = store.sql(f"from samples where condition = '{name}' order by sample_id")
        texts, truths = own["generated_text"].to_list(), own["captions"].to_list()
        assert values(found, "cider")[key] == pytest.approx(cider(texts, truths))
        assert values(found, "cider_d")[key] == pytest.approx(cider(texts, truths, variant="d"))
        votes = [vqa_accuracy(*pair) for pair in zip(texts, own["answers"].to_list(), strict=True)]
        assert values(found, "vqa_accuracy")[key] == pytest.approx(np.mean(votes))
        assert (np.mean(votes) > 0) == (name == "none")
    of_eoi = found.filter(knockout="eoi-knockout", window=2)
    for metric in ("vqa_accuracy", "cider"):
        (row,) = of_eoi.filter(metric=metric).iter_rows(named=True)
        before = values(found, metric)["none", 0]
        assert row["difference"] == pytest.approx(row["value"] - before)
        assert row["difference_low"] <= row["difference"] <= row["difference_high"] < 0
    draws = [
        cider(own["generated_text"].to_list(), own["captions"].to_list())
        for i in (1, 2)
        for own in [store.sql(f"from samples where condition = 'random-image-3-knockout-r{i}' order by sample_id")]
    ]
    (row,) = found.filter(metric="cider", knockout="random-image-3-knockout").iter_rows(named=True)
    assert (row["value"], row["spread"]) == pytest.approx((np.mean(draws), np.std(draws, ddof=1)))


def test_windows_that_end_early_are_not_all_blocks(tmp_path):
    few = {name: CONDITIONS[name] for name in ("none", "eoi-knockout-w1")}
    found = table(make_store(tmp_path / "s", conditions=few))
    assert found["blocks"].unique().to_list() == [BLOCKS]
    assert knockout_figures.everywhere(found)["name"].unique().to_list() == ["none"]


def test_one_and_several_jobs_agree(tmp_path):
    path = make_store(tmp_path / "s")
    assert table(path).equals(table(path, jobs=2))


def test_wrong_calls_end_in_one_line(tmp_path, capsys):
    path = make_store(tmp_path / "s")
    assert command(capsys, path, "-k", 40)[2].endswith("take k < 40 (-k), or select more rows\n")
    assert "one layer is wanted, not 2" in command(capsys, path, "--layers", "0,2")[2]
    plain = make_store(tmp_path / "plain", conditions={"none": []})
    status, _, err = command(capsys, plain)
    assert status == 1
    assert "has no knockout among its conditions; extract one" in err
    status, _, err = command(capsys, path, "--label", "lable", "--role", "eoi")
    assert status == 1
    assert "no label overlap: no role 'eoi'" in err
    assert "nothing to measure" in err


def test_table_of_several_stores(tmp_path):
    """Stores of one model share its rows; what the paper printed of it stands beside."""
    stores = {
        "overlap": make_store(tmp_path / "o", source="imagenet"),
        "captions": make_store(tmp_path / "c", source="coco", texts=True, labels=False),
    }
    sides = [Side(actstore.open(path), table(path)) for path in stores.values()]
    found = side_by_side(sides)
    assert found.columns[:3] == ["model", "knockout", "ImageNet, label overlap χ at the output"]
    assert found["model"].unique().to_list() == ["chameleon-7b"]
    assert found["knockout"].to_list() == ["none", "eoi", "early *", "random-image-3"]
    own = values(sides[0].table, "overlap")
    assert found[0, 2] == f"{own['none', 0]:.3f} [0.46]"
    assert found[1, 2] == f"{own['eoi-knockout', 2]:.3f} [0.01]"
    assert " ± " in found[3, 2]
    assert found.filter(knockout="eoi")["COCO, CIDEr"].item().endswith("[0.04]")
    assert not any("[" in text for text in found["COCO, CIDEr-D"])


def test_figure(tmp_path, capsys):
    path = make_store(tmp_path / "s", texts=True)
    assert run(["knockout", str(path), "-k", "5", "--figure", str(tmp_path / "x.png")]) == 0
    assert (tmp_path / "x.png").stat().st_size > 10_000
    found = table(path)
    marks = re.findall(r'aria-label="([^"]*)"', charts.svg(knockout_figures.knockout(found, title="t"), "a"))
    own = values(found, "overlap")
    assert f"eoi, last 1 blocks: label overlap χ at the output {own['eoi-knockout', 1]:.3f}" in marks
    assert f"eoi, last 0 blocks: label overlap χ at the output {own['none', 0]:.3f}" in marks
    assert any(one.startswith("random-image-3: CIDEr ") and one.endswith(", mean of 2 draws") for one in marks)
    behind = knockout_figures.knockout(found, title="t", reference=curves.windows("chameleon-7b"))
    assert "published, not measured here" in behind.to_json()
    said = behind.to_dict()["vconcat"][0]["title"]["subtitle"]
    assert said == [
        f"n = {N} samples",
        "bands and bars: 95 % intervals, of repeats one standard deviation over draws",
        "pale: Chameleon-7B as published, at the same share of the blocks",
        "(read off its authors' page, to about 0.003)",
        f"its chance is 0.010, here {found['chance'].drop_nulls()[0]:.3f}: compare shapes over depth, not heights",
    ]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    paths = {name: tmp_path_factory.mktemp("knocked") / name for name in ("digits-fusion", "digits-gated")}
    few = ("samples.limit=80", "samples.split=test", "capture.part_samples=200", "capture.batch_size=40")
    for name, path in paths.items():
        extract(path, *few, name=f"{name}-knockout")
    return paths


def test_a_role_of_several_positions_is_averaged_over_them(tmp_path, capsys):
    extract(tmp_path / "s", "samples.limit=24", "capture.roles=['image']", name="digits-fusion-knockout")
    _, rows, _ = command(capsys, tmp_path / "s", "--role", "image", "-k", 3)
    store = actstore.open(tmp_path / "s")
    chosen = store.sql("from rows where role = 'image' and condition = 'none' order by k, sample_id")
    y = chosen["label"].rank("dense").cast(pl.Int64).to_numpy().reshape(-1, 24)
    x = store.residual(chosen, store.layers[-1]).reshape(*y.shape, -1)
    (found,) = [row for row in rows if (row["knockout"], row["metric"]) == ("none", "overlap")]
    assert found["value"] == pytest.approx(np.mean([label_overlap(*at, 3) for at in zip(x, y, strict=True)]))


def test_the_gate_is_seen_and_a_null_is_said(digits):
    fusion, gated = (table(digits[name], k=10) for name in ("digits-fusion", "digits-gated"))
    own, built = values(fusion, "accuracy"), values(gated, "accuracy")
    assert own["eoi-knockout", 6] > own["none", 0] - 0.1
    assert own["image-knockout", 6] < 0.3
    assert built["eoi-knockout-pre", 6] < 0.25 < 0.85 < built["image-knockout", 6]
    said = causal.knockouts("digits-fusion", fusion)
    assert f"digits-fusion: next token is the label {own['none', 0]:.3f} (" in said
    assert "eoi blocked" in said
    assert said.partition("image blocked")[0].count("no change that the intervals show") == 2
    assert said.partition("image blocked")[2].endswith("a fall to chance.")
    other = causal.knockouts("digits-gated", gated)
    assert "to eoi-pre blocked" in other
    assert "a fall to chance" in other.partition("eoi-pre")[2].partition(";")[0]
    assert "no change" in other.partition("image blocked")[2]


def test_undefined_where_all_vectors_are_the_same(digits):
    found = table(digits["digits-gated"], k=10)
    (row,) = found.filter(knockout="eoi-knockout-pre", metric="overlap").iter_rows(named=True)
    assert np.isnan(row["value"])  # nothing of the image is left, and all prompts are the same
    knockout_figures.knockout(found, title="t").to_json()
