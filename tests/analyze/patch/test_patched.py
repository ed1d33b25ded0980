"""Patches that samples ran under, read from a store: similarity, accuracy and sign flips by layer."""

import re

import numpy as np
import polars as pl
import pytest

from actstore import ActstoreError
from actstore_analyze.charts import charts
from actstore_analyze.patch import figure as patched_figures
from actstore_analyze.patch.study import Patched, patched
from actstore_analyze.published import curves
from actstore_analyze.report import causal
from actstore_analyze.study.intervals import paired, wilson
from patching import CONDITIONS, PAIRS, N, make_store, numbers


def test_equal_to_the_definitions(tmp_path):
    store = make_store(tmp_path / "s")
    found = patched(store)
    places = [(row["patch"], row["point"], row["layer"], row["depth"]) for row in found.iter_rows(named=True)]
    assert places == [
        *(("eoi-patch", "residual", layer, layer / 2) for layer in range(3)),
        *(("deep", "attention-input", layer, layer / 2) for layer in range(2)),
    ]
    before = numbers("none")[1]
    source = np.array([0, 2] * (N // 2))  # places of the sources' classes; those of the receivers follow
    rows = np.arange(N)
    for name, row in zip(list(CONDITIONS)[1:], found.iter_rows(named=True), strict=True):
        similarity, p = numbers(name)
        assert row["similarity"] == pytest.approx(similarity.mean())
        assert row["similarity_sd"] == pytest.approx(similarity.std(ddof=1), rel=1e-6)
        assert row["baseline"] == pytest.approx(numbers("eoi-patch-l2")[0].mean())
        change = similarity - numbers("eoi-patch-l2")[0]
        ends = np.quantile(
            np.sort(change)[np.random.default_rng(0).integers(0, N, (1000, N))].mean(axis=1), [0.025, 0.975]
        )
        assert [row["difference_low"], row["difference"], row["difference_high"]] == pytest.approx(
            [ends[0], change.mean(), ends[1]], rel=1e-5, abs=1e-7
        )
        right = p[rows, source] > p[rows, source + 1]
        own = before[rows, source] > before[rows, source + 1]
        assert row["accuracy"] == right.mean()
        assert (row["low"], row["high"]) == wilson(int(right.sum()), N)
        assert row["accuracy_before"] == own.mean()
        changes = right.astype(float) - own
        assert row["accuracy_difference"] == pytest.approx(changes.mean())
        assert (row["accuracy_difference_low"], row["accuracy_difference_high"]) == pytest.approx(paired(changes))
        assert row["sign_flips"] == (right != own).mean()
        assert (row["role"], row["n"]) == ("eoi", N)
    assert found.filter(point="residual")["sign_flips"][-1] == 0  # nothing reads the patch there


def test_sql_chooses_the_receivers(tmp_path):
    store = make_store(tmp_path / "s")
    found = patched(store, "from rows where label = 'dog'")
    assert found["n"].unique().to_list() == [N // 2]
    assert found["similarity"][0] == pytest.approx(numbers("eoi-patch-l0")[0][::2].mean())
    assert Patched.of(store, layers=[1]).table(store, say=print)["layer"].to_list() == [1, 1]
    with pytest.raises(ActstoreError, match="selects no sample that was patched"):
        patched(store, "from rows where false")


def test_layers_are_those_of_the_patches_whichever_are_stored(tmp_path):
    whole = make_store(tmp_path / "whole")
    ends = make_store(tmp_path / "ends", layers=(2,))
    assert Patched.of(ends).layers == (0, 1, 2)
    assert Patched.of(ends).table(ends, say=print).equals(Patched.of(whole).table(whole, say=print))
    assert Patched.of(ends, layers=[1]).table(ends, say=print)["layer"].to_list() == [1, 1]
    with pytest.raises(ActstoreError, match=r"has no patch at layer 3, 7, only at 0\.\.2"):
        Patched.of(ends, layers=[7, 3, 1])


def test_without_a_patch_at_the_last_layer_there_is_no_baseline(tmp_path):
    few = {name: spec for name, spec in CONDITIONS.items() if name != "eoi-patch-l2"}
    found = patched(make_store(tmp_path / "s", conditions=few))
    assert found["baseline"].null_count() == found.height
    assert found["accuracy"].null_count() == 0
    (residual, attention) = causal.patches("m", found)
    assert "without the patch" not in residual.partition(";")[0]
    assert attention.startswith("m, what attention reads, from a block on, at eoi: the similarity")


def test_another_pair_has_no_baseline_from_this_one(tmp_path):
    other = {**CONDITIONS, "deep-l0": [{**CONDITIONS["deep-l0"][0], "pairs": PAIRS[:1]}]}
    found = patched(make_store(tmp_path / "s", conditions=other))
    assert found["baseline"].is_null().to_list() == [False, False, False, True, False]


def test_words_that_cannot_be_told_apart_are_named_and_accuracy_is_refused(tmp_path):
    said = []
    found = patched(make_store(tmp_path / "s", same=[("cat", "dog")]), say=said.append)
    assert said == ["no accuracy: classes whose words begin with the same token cannot be told apart: cat and dog"]
    assert found["accuracy"].null_count() == found.height
    assert found["similarity"].null_count() == 0


def test_without_answers_similarity_alone(tmp_path):
    said = []
    found = patched(make_store(tmp_path / "none", answers=[]), say=said.append)
    assert found["accuracy"].null_count() == found.height
    assert said == ["no accuracy: the recipe kept no probabilities of answers ([capture] answers)"]
    (text, _) = causal.patches("m", found)
    assert "preferred" not in text
    named = {"cat": " c", "dog": " d", "red": " r", "green": " g"}
    patched(make_store(tmp_path / "few", answers=named), say=said.append)
    assert said[1] == "no accuracy: no answer stands for blue ([capture] answers)"


def test_a_store_without_patches_is_refused(tmp_path):
    with pytest.raises(ActstoreError, match="has no patch among its conditions; extract one"):
        patched(make_store(tmp_path / "s", conditions={"none": []}))
    with pytest.raises(ActstoreError, match="has no patch among its conditions; extract one"):
        Patched.of(make_store(tmp_path / "t", conditions={"none": []}), layers=[1])


def table(similarity, accuracy, before):
    """A residual patch with these numbers at its best layer, and 400 pairs."""
    row = {"patch": "eoi-patch", "role": "eoi", "point": "residual", "layer": 3, "depth": 0.5, "similarity": similarity}
    row |= {"similarity_sd": 0.3, "baseline": 0.1, "baseline_sd": 0.1, "accuracy": accuracy, "accuracy_before": before}
    low, high = (None, None) if accuracy is None else wilson(round(400 * accuracy), 400)
    return pl.DataFrame([{**row, "low": low, "high": high, "sign_flips": 0.0, "n": 400}])


@pytest.mark.parametrize(
    ("numbers", "null"),
    [((0.8, 0.9, 0.02), False), ((0.12, 0.03, 0.02), True), ((0.5, None, None), False), ((0.13, None, None), True)],
)
def test_a_null_is_said_as_a_null(numbers, null):
    (text,) = causal.patches("tiny", table(*numbers))
    assert text.startswith(
        f"tiny, the residual stream at eoi: the similarity to the source is at most {numbers[0]:.3f}"
    )
    assert text.endswith(": a null, the patch does not move what the model says.") == null
    assert text.endswith(": the patch carries what the source says.") != null


def test_figure(tmp_path):
    found = patched(make_store(tmp_path / "s"))
    chart = patched_figures.patched(found, title="tiny", reference=curves.patching("chameleon-7b"))
    marks = re.findall(r'aria-label="([^"]*)"', charts.svg(chart, "a"))
    first = found.row(0, named=True)
    assert (
        f"residual, layer 0: similarity {first['similarity']:.3f} ± {first['similarity_sd']:.3f} (sd), n = {N}; "
        f"{first['difference']:.3f} from without the patch "
        f"({first['difference_low']:.3f} to {first['difference_high']:.3f})" in marks
    )
    assert sum(one.startswith("attention input, layer 1: accuracy") for one in marks) == 1
    assert sum("published, not measured here" in one for one in marks) == 64
    assert chart.to_dict()["vconcat"][0]["title"]["subtitle"] == [
        f"n = {N} pairs, patched at eoi",
        "band: similarity ± one standard deviation over samples; accuracy 95 % Wilson interval",
        "pale: Chameleon-7B as published, at the same relative depth",
        "(read off its authors' page, to about 0.003)",
    ]
    alone = patched_figures.patched(patched(make_store(tmp_path / "none", answers=[])), title="tiny")
    assert "accuracy" not in charts.svg(alone, "b")


def test_pairs_of_one_class_have_no_accuracy(tmp_path):
    expected = patched(make_store(tmp_path / "s"), "from rows where label = 'blue'")
    pairs = [["dog", "dog"], ["red", "blue"]]
    conditions = {name: [{**one, "pairs": pairs} for one in spec] for name, spec in CONDITIONS.items()}
    told = []
    found = patched(make_store(tmp_path / "alike", conditions=conditions, pairs=pairs), say=told.append)
    assert "left out of the accuracy: 6 of 12 pairs, whose source and receiver are of one class or word" in told
    assert found["n"].to_list() == [12] * 5
    for name in ("accuracy", "low", "high", "sign_flips"):
        np.testing.assert_allclose(found[name].to_list(), expected[name].to_list())
    assert found["accuracy"].null_count() == 0
