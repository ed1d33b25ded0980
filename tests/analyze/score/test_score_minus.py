"""score --minus-store: what two stores said of the same samples, with paired intervals."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.score import vqa_accuracy
from actstore_analyze.score.captions import cider_per_image
from actstore_analyze.study.intervals import of_mean, paired
from pages import Page

WORDS = ("cat", "dog", "a red bus", "two dogs run", "no")
N, M = 40, 30
THERE = np.random.default_rng(1).permutation(N)[:M]  # of the samples, those that the other store has, too


def words(seed):
    return [WORDS[i] for i in np.random.default_rng(seed).integers(0, len(WORDS), N)]


def make(path, which, seed, **truths):
    """A store of some samples, as the model is and cut; each split by its number."""
    ran = [(condition, int(i)) for condition in ("none", "cut") for i in which]
    said = {"none": words(seed), "cut": words(seed + 10)}
    samples = pl.DataFrame(
        {
            "sample_id": [f"s{i:02}" for _, i in ran],
            "condition": [condition for condition, _ in ran],
            "status": "ok",
            "generated_text": [said[condition][i] for condition, i in ran],
        }
    )
    own = {name: pl.Series([values[i] for _, i in ran]) for name, values in truths.items()}
    split = pl.Series(["ab"[i % 2] for _, i in ran])
    plan = samples.select("sample_id", "condition", split=split, **own)
    store = actstore.create(path, plan=plan, layers=[0], d_model=2)
    rows = samples.select("sample_id", "condition", role=pl.lit("last"))
    store.write(0, samples=samples, rows=rows, residual={"last": np.ones((1, rows.height, 2), np.float32)})
    return path


@pytest.fixture
def both(tmp_path):
    def made(**truths):
        here = make(tmp_path / "here", range(N), 0, **truths)
        return here, make(tmp_path / "there", THERE, 1, **truths)

    return made


def command(capsys, *arguments):
    status = run(["score", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


def ends(row):
    return row["difference"], row["difference_low"], row["difference_high"]


def test_vqa_by_condition_and_split(both, capsys, tmp_path):
    answers = [[WORDS[i % 5]] * 2 + [WORDS[i % 3]] * 8 for i in range(N)]
    here, there = both(answers=answers)
    picture = tmp_path / "d.svg"
    status, rows, err = command(capsys, here, "--task", "vqa", "--minus-store", there, "--figure", picture)
    assert status == 0, err
    assert "20 of 80 samples are not in both; left out" in err
    order = np.sort(THERE)
    for condition, added in (("none", 0), ("cut", 10)):
        own, other = (
            np.array([vqa_accuracy(*pair) for pair in zip(words(seed + added), answers, strict=True)])
            for seed in (0, 1)
        )
        for split, chosen in (("all", order), ("a", order[order % 2 == 0]), ("b", order[order % 2 == 1])):
            (row,) = (
                one
                for one in rows
                if (one["metric"], one["condition"], one["split"]) == ("vqa_accuracy", condition, split)
            )
            changes = (own - other)[chosen]
            assert (row["value"], row["minus"]) == pytest.approx((own[chosen].mean(), other[chosen].mean()))
            assert ends(row) == pytest.approx((changes.mean(), *of_mean(changes)))
            assert (row["n"], row["minus_store"], row["said"]) == (len(chosen), "there", "generated_text")
    drawing = picture.read_text("utf-8")
    assert "less that of there, n = 30 samples of both" in drawing
    assert "difference of VQA accuracy" in drawing
    assert "as it is" in drawing


def test_words_of_captions_weigh_by_the_samples_of_both(both, capsys):
    captions = [[WORDS[i % 5], WORDS[(i + 1) % 5]] for i in range(N)]
    here, there = both(captions=captions)
    _, rows, _ = command(capsys, here, "--task", "cider", "--minus-store", there)
    order = np.sort(THERE)
    own, other = (cider_per_image([words(seed)[i] for i in order], [captions[i] for i in order]) for seed in (0, 1))
    row = next(one for one in rows if (one["metric"], one["condition"], one["split"]) == ("cider", "none", "all"))
    assert ends(row) == pytest.approx(((own - other).mean(), *of_mean(own - other)))


@pytest.mark.parametrize("task", ["answers", "gqa"])
def test_right_and_wrong_have_bonett_and_prices(both, capsys, task):
    truth = [WORDS[i % 5] for i in range(N)]
    here, there = both(answer=truth)
    _, rows, _ = command(capsys, here, "--task", task, "--minus-store", there)
    order = np.sort(THERE)
    right = [np.array([words(seed)[i] == truth[i] for i in order], float) for seed in (0, 1)]
    row = next(one for one in rows if (one["condition"], one["split"]) == ("none", "all"))
    assert ends(row) == pytest.approx(((right[0] - right[1]).mean(), *paired(right[0] - right[1])))
    _, alone, _ = command(capsys, here, "--task", task, "--minus-store", here)
    assert {one["difference"] for one in alone} == {0.0}
    assert all(one["difference_low"] < 0 < one["difference_high"] for one in alone)


def test_it_is_recalled_until_the_other_store_changes_and_stands_in_a_report(both, capsys, tmp_path):
    here, there = both(answer=[WORDS[i % 5] for i in range(N)])
    asked = here, "--task", "answers", "--minus-store", there
    _, rows, err = command(capsys, *asked)
    assert "saved as" in err
    assert "recalled from" in command(capsys, *asked)[2]
    found = actstore.open(here).measure.score(task="answers", minus_store=there)
    assert found.table.to_dicts() == rows
    assert f"--minus-store {there}" in found.command
    assert run(["report", str(here), "-o", str(tmp_path / "r.html")]) == 0
    page = Page((tmp_path / "r.html").read_text("utf-8"))
    assert "Scores: answers, less those of there" in " ".join(page.headings)
    assert "matched by condition and sample_id" in page.words


def test_scores_in_python_are_of_samples(both, capsys, tmp_path):
    here, _ = both(answer=[WORDS[i % 5] for i in range(N)])
    found = actstore.open(here).measure.score(task="answers")
    assert found.table.filter(condition="none", split="all")["n"].to_list() == [N]
    found.save(tmp_path / "f.svg")
    assert "Scores: answers" in (tmp_path / "f.svg").read_text("utf-8")
    _, rows, _ = command(capsys, here, "--task", "answers", "--figure", tmp_path / "g.svg")
    assert found.table.to_dicts() == rows
    assert "Scores: answers" in (tmp_path / "g.svg").read_text("utf-8")


def test_another_truth_there_is_refused(both, capsys):
    truth = [WORDS[i % 5] for i in range(N)]
    here, _ = both(answer=truth)
    changed = [*truth]
    changed[THERE[0]] = "a bird"
    other = make(here.parent / "changed", THERE, 1, answer=changed)
    status, _, err = command(capsys, here, "--task", "answers", "--minus-store", other)
    assert status == 1
    assert f"2 of 60 samples have another 'answer' in {other}: 's{THERE[0]:02}' has" in err
    with pytest.raises(ActstoreError, match="have another 'answer'"):
        actstore.open(here).measure.score(task="answers", minus_store=other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--task", "mme", "--truth", "answer"],
            "--minus-store is of means over samples, which --task mme lacks: vqa,",
        ),
        (["--task", "answers", "--reference", "chameleon-7b"], "leave --judge and --reference out"),
        (["--task", "answers", "--said", "words"], "no column 'words'"),
    ],
)
def test_bad_input_is_one_clear_line(both, capsys, options, message):
    here, there = both(answer=[WORDS[i % 5] for i in range(N)])
    status, rows, err = command(capsys, here, *options, "--minus-store", there)
    assert status in (1, 2)
    assert rows == []
    assert message in err
    assert "Traceback" not in err


def test_samples_of_no_store_in_common(tmp_path, capsys):
    truth = [WORDS[i % 5] for i in range(N)]
    here, there = (make(tmp_path / str(i), which, i, answer=truth) for i, which in enumerate((range(5), range(9, N))))
    status, _, err = command(capsys, here, "--task", "answers", "--minus-store", there)
    assert status == 1
    assert f"no sample in common with {there}, under one condition; the first is 's00' ('cut') here and 's10'" in err
