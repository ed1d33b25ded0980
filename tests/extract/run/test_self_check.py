"""Runs check themselves before there is a store, keep to what was found, and check again where something is another."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import actstore
import faults
import kinds
import tiny
from actstore_extract.again.rerun import Rerun
from actstore_extract.check.check import CheckError
from actstore_extract.check.found import Found
from actstore_extract.recipe import recipe
from actstore_extract.run import checking
from actstore_extract.run.command import extract
from actstore_extract.run.runner import Run
from extracting import vectors

RECIPE = """
[model]
path = "{folder}/model"
dtype = "float32"

[samples]
source = "table"
path = "{folder}/samples.csv"

[prompt]
text = "{{text}}"

[capture]
roles = ["last", "text-mean"]
attention = ["at-1"]
batch_size = 4
part_samples = 2
"""
TEXTS = [
    kinds.LONG,
    f"{kinds.LONG} one two",
    kinds.LONG.replace("one", "two"),
    f"one , {kinds.LONG}",
    "one two",
    "two one",
]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for a model whose choice of keys depends on padding, and six prompts of four lengths."""
    folder = tmp_path_factory.mktemp("sparse")
    model = kinds.text("deepseek_v32")
    tiny.save(model, folder / "model")
    rows = [f's{i},"{text}"' for i, text in enumerate(TEXTS)]
    (folder / "samples.csv").write_text("\n".join(["sample_id,text", *rows]) + "\n")
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder))
    return folder / "recipe.toml"


def run(file: Path, *changes: str) -> tuple[Run, list[str]]:
    said: list[str] = []
    return Run(recipe.load(str(file), changes), say=said.append), said


def test_a_run_goes_on_with_batches_of_one_length(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, said = run(sparse)
    monkeypatch.setattr(first, "_free", lambda store, _: store.remaining[:1] if len(store.remaining) == 3 else [])
    first.extract(tmp_path / "store")
    card = actstore.open(tmp_path / "store").run["check"]
    assert (card["batches"], card["sample_id"], card["held"]) == ("of one length", "s0", ["points"])
    assert card["left_out"] == {"two pictures": "no sample that was looked at has one"}
    assert {"attention read", "padded", "of one length"} <= card["differences"].keys()
    lines = [line for line in said if line.startswith("self-check")]
    assert lines == Found(**card).lines()
    assert lines[2].endswith("; going on with batches of samples of one length")

    second, said = run(sparse)  # goes on as it began, and looks at nothing again
    second.extract(tmp_path / "store")
    assert second.model.batching == "of one length"
    assert not any("self-check" in line for line in said)
    assert Rerun(tmp_path / "store").run.found(4).batches == "of one length"

    run(sparse, "capture.batch_size=1")[0].extract(tmp_path / "alone")
    padded, _ = run(sparse, "check=false")
    padded.extract(tmp_path / "padded")
    alone = vectors(tmp_path / "alone")
    assert nearly(vectors(tmp_path / "store"), alone)
    assert not nearly(vectors(tmp_path / "padded"), alone)
    assert actstore.open(tmp_path / "padded").run["check"]["left_out"] == {
        "everything": "the recipe says check = false"
    }


def nearly(some: dict[tuple[str, ...], bytes], others: dict[tuple[str, ...], bytes]) -> bool:
    pairs = [(np.frombuffer(some[key], np.float32), np.frombuffer(others[key], np.float32)) for key in others]
    return max(np.abs(x - y).max() / np.abs(y).max() for x, y in pairs) < 1e-5


def test_what_ran_alone_is_checked_before_it_runs_together(sparse: Path, tmp_path: Path) -> None:
    run(sparse, "samples.limit=2", "capture.batch_size=1")[0].extract(tmp_path / "store")
    again = Rerun(tmp_path / "store")  # as for recompute --batch-size 4
    again.run.extractor(1)
    assert again.run.model.batching == "padded"  # nothing was looked at, and nothing runs together
    again.run.extractor(4)
    assert again.run.model.batching == "of one length"


def test_another_device_or_version_is_checked_again(
    sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(sparse, "samples.limit=2", "capture.batch_size=1")[0].extract(
        tmp_path / "store"
    )  # one at a time: nothing to see
    assert actstore.open(tmp_path / "store").run["check"]["batches"] == "padded"
    now = checking.made_on
    for other in ({"device": "another"}, {"versions": {**now(torch.device("cpu"))["versions"], "torch": "2.0"}}):
        monkeypatch.setattr(checking, "made_on", lambda device, other=other: now(device) | other)
        again, said = run(sparse, "samples.limit=2", "capture.batch_size=1")
        again.batch_size = 4
        again.extract(tmp_path / "store")
        assert again.found(4).batches == "of one length"
        assert said[-1].endswith("batches of samples of one length")


def test_what_is_wrong_leaves_no_store(sparse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults.renamed(kinds.text("deepseek_v32"), monkeypatch)
    with pytest.raises(CheckError, match=r"on s0: reading its attention changes the model.*Nothing was stored"):
        run(sparse)[0].extract(tmp_path / "store")
    assert not (tmp_path / "store").exists()
    done = CliRunner().invoke(extract, [str(sparse), str(tmp_path / "unchecked"), "--no-check", "--limit", "2"])
    assert done.exit_code == 0
    assert actstore.open(tmp_path / "unchecked").run["recipe"]["check"] is False
