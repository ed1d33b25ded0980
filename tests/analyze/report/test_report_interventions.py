"""The report of stores of interventions: knockouts as one table, patches, and texts with and without steering."""

import shlex

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

import actstore
import knockouts
import making
import patching
from actstore import ActstoreError
from actstore.commands.main import run
from actstore_analyze.patch.steered import _summary, has_steers, steered
from actstore_analyze.report import runcard
from actstore_analyze.report.choice import EVERYTHING
from actstore_analyze.report.experiments import _current
from actstore_analyze.report.places import Places
from actstore_analyze.study.intervals import wilson
from pages import Page

TEXTS = {"none": ["a cat", "a dog", "a cat"], "up-l1-s2": ["seven", "a dog", "seven"], "up-l1-s-1": ["a", "b", "a cat"]}


def steer(scale):
    return [
        {
            "steer": "eoi", "layer": 1, "mode": "add", "scale": scale, "generated": True,
            "files": ["x/seven.npy", "x/other.npy"], "norm": 3.0,
        }
    ]  # fmt: skip


def make_steered(path, column="generated_text", label=True, **members):
    plans = [
        pl.DataFrame({"sample_id": list("abc"), "condition": [name] * 3, **({"label": list("xyz")} if label else {})})
        for name in TEXTS
    ]
    card = {"model": "tiny", "conditions": {"none": [], "up-l1-s2": steer(2.0), "up-l1-s-1": steer(-1.0)}, **members}
    store = actstore.create(path, plan=pl.concat(plans), layers=[0], d_model=2, run=card)
    said = pl.concat(
        pl.DataFrame({"sample_id": list("abc"), "condition": [name] * 3, column: texts})
        for name, texts in TEXTS.items()
    )
    rows = said.select("sample_id", "condition", role=pl.lit("eoi"))
    store.write(0, samples=said, rows=rows, residual={"eoi": np.ones((1, 9, 2), np.float32)})
    return actstore.open(path)


@pytest.mark.parametrize("column", ["generated_text", "next_token"])
def test_what_is_said_with_and_without(tmp_path, column):
    found = steered(make_steered(tmp_path / "s", column))
    assert found.said.rows() == [
        ("a", "x", "a cat", "seven", "a"),
        ("b", "y", "a dog", "a dog", "b"),
        ("c", "z", "a cat", "seven", "a cat"),
    ]
    assert found.said.columns == ["sample_id", "label", *TEXTS]
    up, down = found.summary.iter_rows(named=True)
    assert (up["condition"], up["role"], up["layer"], up["mode"], up["scale"]) == ("up-l1-s2", "eoi", 1, "add", 2.0)
    assert (up["vectors"], up["n"], up["commonest"]) == ("seven.npy - other.npy", 3, "seven")
    assert (up["changed"], up["share"], up["share_before"]) == pytest.approx((2 / 3, 2 / 3, 0))
    assert (down["changed"], down["share"]) == pytest.approx((2 / 3, 1 / 3))
    for row, name, count in [(up, "changed", 2), (up, "share", 2), (up, "share_before", 0), (down, "share", 1)]:
        ends = binomtest(count, 3).proportion_ci(method="wilson")
        assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(tuple(ends), abs=1e-6)


def test_what_is_not_known_of_before_is_not_counted():
    texts = pl.DataFrame({"none": ["a cat", None, "a dog"], "up": ["seven", "seven", "a dog"]})
    found = _summary("up", steer(2.0)[0], texts)
    assert (found["n"], found["changed"], found["share"], found["share_before"]) == (3, 1 / 2, 2 / 3, 0)
    assert (found["changed_low"], found["changed_high"]) == wilson(1, 2)
    alone = _summary("up", steer(2.0)[0], texts.drop("none"))
    assert (alone["changed"], alone["share_before_low"], alone["share"]) == (None, None, 2 / 3)


def test_without_labels_and_without_steers(tmp_path):
    assert steered(make_steered(tmp_path / "s", label=False)).said.columns == ["sample_id", *TEXTS]
    plain = actstore.open(knockouts.make_store(tmp_path / "k"))
    assert not has_steers(plain)
    with pytest.raises(ActstoreError, match="has no steer among its conditions"):
        steered(plain)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interventions")
    knocked = knockouts.make_store(folder / "knocked", texts=True)
    assert run(["knockout", str(knocked), "-k", "5"]) == 0
    stores = [knocked, patching.make_store(folder / "patched", layers=(2,)).path, make_steered(folder / "steered").path]
    assert run(["report", *map(str, stores), "-o", str(folder / "r.html"), "--reference", "Chameleon-7B"]) == 0
    return folder, (folder / "r.html").read_text()


def test_headings_and_files(reported):
    folder, text = reported
    page = Page(text)
    assert [heading for heading in page.headings if heading] == [
        "What was found",
        "Attention knockout, k = 5",
        "Activation patching",
        "Steering",
        "What the model said",
        "Samples",
        "What was run",
        "How to read this",
        "Beside it: what the paper reports for large models",
        "Methods",
        "How to make this again",
    ]
    names = ["attention-knockout-k5.csv", "activation-patching.png", "steering.csv"]
    assert all((folder / "r_files" / name).stat().st_size for name in names)
    patches = pl.read_csv(folder / "r_files" / "activation-patching.csv")
    assert patches["layer"].to_list() == [0, 1, 2, 0, 1]  # all that conditions patch; the store keeps the last
    for link in page.links:
        assert (folder / link).is_file()
    assert "Label overlap" not in page.headings
    assert len(page.ids) == len(set(page.ids))


def test_sentences_and_tables(reported):
    words = Page(reported[1]).words
    assert (
        "chameleon-7b: next token is the label 1.000 (0.912 to 1.000) as it is; with attention to eoi blocked" in words
    )
    assert "This page" not in words  # no label overlap at the end of the image, which the sentence is about
    assert "in square brackets: as published, not measured here; ±: standard deviation over draws" in words
    assert "seven.npy - other.npy" in words
    assert "tiny: what 3 of 3 samples say" in words
    assert "the similarity to the source is at most" in words
    assert "Pale: Chameleon-7B as published, not measured here" in words
    rows = reported[1].partition('<h2 id="said">')[2].partition("</section>")[0]
    assert "knockout" not in rows  # conditions have sections of their own


def test_published_knockouts_stand_beside(reported):
    beside = reported[1].partition("Beside it")[2]
    assert "at-1025-knockout" in beside
    assert "<td>0.98</td>" in beside  # LLaVA-OneVision's captions of COCO


def test_how_to_read_says_which_stores_answer_the_question(tmp_path):
    from actstore_analyze.report import experiments, prose
    from actstore_analyze.study.subjects import subjects as subjects_of

    paths = [knockouts.make_store(tmp_path / "k"), patching.make_store(tmp_path / "p").path]
    subjects = subjects_of([actstore.open(path) for path in paths])
    others = experiments.others(subjects, say=lambda _: None)
    assert prose._causal(others) == "This page holds knockouts of chameleon-7b and patches of m."
    assert prose._causal([]) == "This page holds neither."
    assert experiments.overlaps(subjects, say=lambda _: None) == []


def test_files_to_steer_with_are_named_where_the_page_is_made_again(tmp_path):
    store = make_steered(tmp_path / "s", recipe={})
    said, *commands = runcard.commands(store, Places([store.path]))
    assert said == "# steers with other.npy, seven.npy, which no store holds: actstore export makes such files"
    assert [shlex.split(one)[:2] for one in commands] == [["actstore", "recipes"], ["actstore", "extract"]]


def test_steering_alone_makes_a_page(tmp_path):
    store = make_steered(tmp_path / "s")
    assert run(["report", str(store.path), "-o", str(tmp_path / "r.html")]) == 0
    page = Page((tmp_path / "r.html").read_text())
    assert "Steering" in page.headings
    assert "0.6667 [0.21, 0.94]" in page.words
    kept = pl.read_csv(tmp_path / "r_files" / "steering.csv")
    assert kept["up-l1-s2"].to_list() == TEXTS["up-l1-s2"]


def test_a_store_made_for_replays_gets_no_label_overlap_unasked(tmp_path):
    store = making.store(tmp_path / "s")
    assert [call.measure for call, _ in _current(store, 5, EVERYTHING, print)] == ["overlap"]
    other = making.store(tmp_path / "other")
    other.save_result("replayed", pl.DataFrame({"value": [1.0]}), {})
    assert _current(other, 5, EVERYTHING, print) == []
