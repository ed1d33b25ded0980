"""The same answers scored by lmms-eval, where it is installed: it asks for other versions than ours, so seldom."""

import json
import random

import pytest

from actstore.commands.main import run
from actstore.store import open as open_store
from actstore_analyze.score import gqa_accuracy, mme_points, pope, vqa_accuracy

tasks = pytest.importorskip("lmms_eval.tasks")

SAID = [
    "yes",
    "No",
    " yes ",
    "Yes, it is.",
    "no.",
    "I cannot say",
    "nothing",
    "Absolutely",
    "a dog",
    "2",
    "Two",
    "the cat's",
]


@pytest.fixture
def answers():
    draw = random.Random(0)
    return [draw.choice(SAID) for _ in range(400)]


def test_pope(answers):
    """lmms-eval leaves answers that are neither yes nor no out of recall; ours counts them as missed."""
    from lmms_eval.tasks.pope import utils

    answers = [said for said in answers if said.strip().lower() in ("yes", "no")]
    truths = [random.Random(i).choice(["yes", "no"]) for i in range(len(answers))]
    docs = [{"question_id": i, "answer": truth} for i, truth in enumerate(truths)]
    results = [utils.pope_process_results(doc, [said]) for doc, said in zip(docs, answers, strict=True)]
    ours = pope(answers, truths)
    for name, value in (("accuracy", ours.accuracy), ("precision", ours.precision), ("recall", ours.recall)):
        theirs = getattr(utils, f"pope_aggregate_{name}")([one[f"pope_{name}"] for one in results])
        assert value == pytest.approx(theirs), name
    assert ours.f1 == pytest.approx(utils.pope_aggregate_f1_score([one["pope_f1_score"] for one in results]))


def test_mme(answers):
    from lmms_eval.tasks.mme import utils

    truths, images = ["yes", "no"] * (len(answers) // 2), [i // 2 for i in range(len(answers))]
    docs = [
        {"answer": truth, "category": "existence", "question_id": image}
        for truth, image in zip(truths, images, strict=True)
    ]
    results = [utils.mme_process_results(doc, [said]) for doc, said in zip(docs, answers, strict=True)]
    theirs = utils.mme_aggregate_results([one["mme_perception_score"] for one in results])
    assert mme_points(answers, truths, images).sum(axis=1).mean() == pytest.approx(theirs)


def test_vqa(answers):
    from lmms_eval.tasks.vqav2 import utils

    draw = random.Random(1)
    for said in answers[:100]:
        people = [draw.choice([said, "yes", "2", "the dog"]) for _ in range(10)]
        doc = {"question_id": 0, "answers": [{"answer": one, "answer_id": i} for i, one in enumerate(people)]}
        theirs = utils.vqav2_process_results(doc, [said])["exact_match"]
        assert vqa_accuracy(said, people) == pytest.approx(theirs), (said, people)


def test_gqa(answers):
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    for said in answers[:50]:
        theirs = exact_match_hf_evaluate([said], ["a dog"], ignore_case=True, ignore_punctuation=True)["exact_match"]
        assert gqa_accuracy([said], ["a dog"]) == pytest.approx(float(theirs)), said


def test_what_a_store_says(tmp_path, capsys):
    """The same outputs of the same model: digits that digits-mapped names, most of them rightly."""
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    store = str(tmp_path / "s")
    few = ["--set", "samples.limit=64", "--set", "capture.max_new_tokens=1"]
    assert run(["extract", "digits-mapped", store, *few]) == 0
    said, truths = open_store(store).sql("select generated_text, label from samples").get_columns()
    theirs = exact_match_hf_evaluate(said.to_list(), truths.to_list(), ignore_case=True, ignore_punctuation=True)
    capsys.readouterr()
    assert run(["score", store, "--task", "gqa", "--truth", "label"]) == 0
    (ours,) = (row for row in map(json.loads, capsys.readouterr().out.splitlines()) if row["split"] == "all")
    assert ours["score"] == pytest.approx(float(theirs["exact_match"]))
    assert (ours["n"], 0 < ours["score"] < 1) == (64, True)
