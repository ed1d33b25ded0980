"""Truths as published data sets have them: records, lists in texts, numbers."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.score.vqa import vqa_accuracy

WORDS = [["dog"] * 7 + ["cat"] * 3, ["red"] * 2 + ["blue"] * 8]
SAID = ["cat", "red"]
RECORDS = [
    [{"answer": word, "answer_confidence": "yes", "answer_id": i} for i, word in enumerate(words)] for words in WORDS
]


def score(capsys, path, truths, *words, said=SAID):
    """The table of a store whose samples said SAID, and what was said on standard error."""
    plan = pl.DataFrame({"sample_id": ["a", "b"], "answers": truths})
    store = actstore.create(path, plan=plan, layers=[0], d_model=2)
    samples = pl.DataFrame({"sample_id": ["a", "b"], "status": ["ok"] * 2, "generated_text": said})
    rows = pl.DataFrame({"sample_id": ["a", "b"], "role": ["last"] * 2})
    store.write(0, samples=samples, rows=rows, residual={"last": np.ones((1, 2, 2), np.float32)})
    status = run(["score", str(path), "--format", "jsonl", *words])
    out, err = capsys.readouterr()
    return (json.loads(out.splitlines()[0])["score"] if status == 0 else None), " ".join(err.split())


@pytest.mark.parametrize(
    "truths", [WORDS, RECORDS, [json.dumps(one) for one in RECORDS], [json.dumps(one) for one in WORDS]]
)
def test_answers_count_the_same_however_they_are_kept(tmp_path, capsys, truths):
    found, _ = score(capsys, tmp_path / "s", truths, "--task", "vqa")
    assert found == pytest.approx(np.mean([vqa_accuracy(*pair) for pair in zip(SAID, WORDS, strict=True)]))
    assert 0 < found < 1


def test_numbers_are_as_they_are_said(tmp_path, capsys):
    found, _ = score(capsys, tmp_path / "s", [3.0, 2.5], "--task", "answers", "--truth", "answers", said=["3", "2.5"])
    assert found == 1


@pytest.mark.parametrize(
    ("truths", "message"),
    [
        ([[{"word": "dog", "n": 1}], []], "'answers' holds records of word, n, and nothing says which of it is true"),
        ([[{"text": "dog", "answer": "cat"}], []], "holds records of text, answer, and nothing says"),
        ([[["dog"]], []], "holds lists of lists, not of words"),
        (["['dog' 'cat']", "['red']"], "holds lists that are no JSON: ['dog' 'cat']"),
    ],
)
def test_a_truth_that_cannot_be_meant(tmp_path, capsys, truths, message):
    found, err = score(capsys, tmp_path / "s", truths, "--task", "vqa")
    assert found is None
    assert message in err


def test_a_label_may_begin_as_a_list_does(tmp_path, capsys):
    found, _ = score(capsys, tmp_path / "s", ["[UNK]", "[1"], "--task", "answers", said=["[UNK]", "[1"])
    assert found == 1
