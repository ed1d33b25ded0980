"""Scores under a condition less those of the model as it is, over the same samples, with paired intervals."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.score import vqa_accuracy
from actstore_analyze.score.captions import cider_per_image
from actstore_analyze.score.study import Scored
from actstore_analyze.study.intervals import of_mean, paired

WORDS = ("cat", "dog", "a red bus", "two dogs run", "no")
N = 40
CUT = 37  # of the samples that ran under the condition, too, in another order


def said(condition):
    rng = np.random.default_rng(len(condition))
    return [WORDS[i] for i in rng.integers(0, len(WORDS), N)]


def make(path, **columns):
    """N samples as the model is, some of them under a condition; columns: the truth of each."""
    order = np.random.default_rng(1).permutation(N)[:CUT]
    ran = [("none", i) for i in range(N)] + [("cut", int(i)) for i in order]
    samples = pl.DataFrame(
        {
            "sample_id": [f"s{i}" for _, i in ran],
            "condition": [condition for condition, _ in ran],
            "status": "ok",
            "generated_text": [said(condition)[i] for condition, i in ran],
        }
    )
    truths = {name: [values[i] for _, i in ran] for name, values in columns.items()}
    plan = samples.select("sample_id", "condition", **{name: pl.Series(values) for name, values in truths.items()})
    store = actstore.create(path, plan=plan, layers=[0], d_model=2)
    rows = samples.select("sample_id", "condition", role=pl.lit("last"))
    store.write(0, samples=samples, rows=rows, residual={"last": np.ones((1, rows.height, 2), np.float32)})
    return path, order


def table(capsys, store, *options):
    assert run(["score", str(store), *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {(row["metric"], row["condition"], row["split"]): row for row in rows}


def ends(row):
    return row["difference"], row["difference_low"], row["difference_high"]


def test_of_vqa_and_by_split(tmp_path, capsys):
    answers = [[WORDS[i % 5]] * 2 + [WORDS[i % 3]] * 8 for i in range(N)]
    store, order = make(tmp_path / "s", answers=answers, split=["ab"[i % 2] for i in range(N)])
    found = table(capsys, store, "--task", "vqa")
    values = {
        condition: np.array([vqa_accuracy(*pair) for pair in zip(said(condition), answers, strict=True)])
        for condition in ("none", "cut")
    }
    changes = (values["cut"] - values["none"])[order]
    assert ends(found["vqa_accuracy", "cut", "all"]) == pytest.approx((changes.mean(), *of_mean(changes)))
    of_a = changes[order % 2 == 0]
    assert ends(found["vqa_accuracy", "cut", "a"]) == pytest.approx((of_a.mean(), *of_mean(of_a)))
    assert ends(found["vqa_accuracy", "none", "all"]) == (None, None, None)


def test_of_captions(tmp_path, capsys):
    captions = [[WORDS[i % 5], WORDS[(i + 1) % 5]] for i in range(N)]
    store, order = make(tmp_path / "s", captions=captions)
    row = table(capsys, store, "--task", "cider")["cider", "cut", "all"]
    every = cider_per_image(said("none"), captions)
    under = cider_per_image([said("cut")[i] for i in order], [captions[i] for i in order])
    changes = under - every[order]
    assert ends(row) == pytest.approx((changes.mean(), *of_mean(changes)))
    assert row["difference_low"] < row["difference"] < row["difference_high"]


@pytest.mark.parametrize(("task", "metric"), [("answers", "accuracy"), ("gqa", "exact_match")])
def test_of_right_and_wrong_it_is_bonetts_and_prices(tmp_path, capsys, task, metric):
    store, order = make(tmp_path / "s", answer=[WORDS[i % 3] for i in range(N)])
    right = {
        name: np.array([own == WORDS[i % 3] for i, own in enumerate(said(name))], float) for name in ("none", "cut")
    }
    changes = (right["cut"] - right["none"])[order]
    row = table(capsys, store, "--task", task)[metric, "cut", "all"]
    assert ends(row) == pytest.approx((changes.mean(), *paired(changes)))


def test_of_pope_accuracy_alone_is_a_mean(tmp_path, capsys):
    store, order = make(tmp_path / "s", label=["no" if i % 3 else "yes" for i in range(N)])
    found = table(capsys, store, "--task", "pope")
    truth = np.array(["no" if i % 3 else "yes" for i in range(N)])
    right = {name: (np.array(said(name)) == truth).astype(float) for name in ("none", "cut")}
    changes = (right["cut"] - right["none"])[order]
    assert ends(found["accuracy", "cut", "all"]) == pytest.approx((changes.mean(), *paired(changes)))
    assert ends(found["f1", "cut", "all"]) == (None, None, None)


def test_rows_without_a_sample_id_have_none(tmp_path, capsys):
    store, _ = make(tmp_path / "s", answer=[WORDS[i % 3] for i in range(N)])
    sql = "select condition, status, generated_text, answer from samples"
    found = table(capsys, store, sql, "--task", "answers")
    assert ends(found["accuracy", "cut", "all"]) == (None, None, None)


def test_results_of_versions_without_differences_do_not_answer(tmp_path, capsys):
    store, _ = make(tmp_path / "s", answer=[WORDS[i % 3] for i in range(N)])
    opened = actstore.open(store)
    call = Scored.of(opened, task="answers")
    older = call.table(opened, say=print).drop("difference", "difference_low", "difference_high")
    opened.save_result("score", older, {name: v for name, v in call.parameters.items() if name != "differences"})
    assert ends(table(capsys, store, "--task", "answers")["accuracy", "cut", "all"])[0] is not None
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    assert (tmp_path / "r.html").read_text("utf-8").count("Scores: answers") >= 1
