"""Benchmarks from end to end: a publisher's files, a model's answers under conditions, a score."""

import json

import pytest

import layouts
from actstore.commands.main import run
from actstore.store import open as open_store
from speaking import speaking

BENCHMARKS = [  # recipe, publisher's files, model that answers, task, metric that it has over all
    ("clip-gemma-2-2b/pope", "pope", "digits-mapped", "pope", "f1"),
    ("clip-gemma-2-2b/gqa", "gqa", "digits-mapped", "gqa", "exact_match"),
    ("clip-gemma-2-2b/mme", "mme", "digits-mapped", "mme", "perception"),
    ("clip-gemma-2-2b/llava-bench", "llava-bench", "digits-mapped", "llava-bench", "relative"),
    ("chameleon-7b/vqa", "vqav2", "digits-fusion", "vqa", "vqa_accuracy"),
    ("chameleon-7b/coco-captions", "coco", "digits-fusion", "cider", "cider"),
    ("chameleon-7b/flickr30k-captions", "flickr30k", "digits-fusion", "cider", "cider"),
]


@pytest.fixture
def judge():
    """Options of actstore score that name a judge who finds all answers alike."""
    with speaking(lambda _: "5 5") as server:
        yield ["--judge", "tiny", "--base-url", server.url]


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "files", "model", "task", "metric"), BENCHMARKS)
def test_a_benchmark_under_a_knockout(tmp_path, capsys, judge, recipe, files, model, task, metric):
    data = layouts.LAYOUTS[files](tmp_path / "data")
    chosen = [f"model.path='{model}'", f"samples.path='{data}'", "capture.max_new_tokens=3"]
    chosen += ['conditions=["image-knockout"]', "capture.part_samples=1", "capture.batch_size=1"]
    call = ["extract", recipe, str(tmp_path / "s"), *(x for one in chosen for x in ("--set", one))]
    assert run(call) == 0
    store = open_store(tmp_path / "s")
    n = store.plan.height // 2
    assert store.sql("select condition, count(generated_text) n from samples group by all order by all").rows() == [
        ("image-knockout", n),
        ("none", n),
    ]
    capsys.readouterr()
    assert run(["score", str(tmp_path / "s"), "--task", task, *(judge if task == "llava-bench" else [])]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {(row["condition"], row["split"], row["metric"]): row["n"] for row in rows}
    assert found["none", "all", metric] == found["image-knockout", "all", metric] == n


def test_what_was_answered_is_not_asked_again(tmp_path, capsys):
    data = layouts.pope(tmp_path / "data")
    chosen = ["model.path='digits-mapped'", f"samples.path='{data}'", "capture.max_new_tokens=1"]
    chosen += ["capture.part_samples=1", "capture.batch_size=1"]
    call = ["extract", "clip-gemma-2-2b/pope", str(tmp_path / "s"), *(x for one in chosen for x in ("--set", one))]
    assert run(call) == 0
    (tmp_path / "s" / "commits" / "b00000002.json").unlink()
    (tmp_path / "s" / "commits" / "b00000004.json").unlink()
    capsys.readouterr()
    assert run(call) == 0
    assert "2 of 6 samples left" in capsys.readouterr().err
