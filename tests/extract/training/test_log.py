"""The log of a training: a row a step, written again where it is gone, and drawn."""

import sys

import polars as pl
import pytest

import trainings
from actstore_extract.training import loop
from actstore_extract.training.log import draw, read_log, write_log
from actstore_extract.training.program import train_adapter


def test_the_log(trained):
    out, _ = trained
    table = pl.read_parquet(out / "log.parquet")
    assert table["step"].to_list() == list(range(6))
    assert table["epoch"].to_list() == [0, 0, 0, 1, 1, 1]
    assert table["examples"].to_list() == [4] * 6
    assert table["learning_rate"][0] == 1e-2
    assert table["learning_rate"].is_sorted(descending=True)
    assert table["loss"][-1] < table["loss"][0]


@pytest.mark.parametrize("harm", ["lost", "damaged", "behind"])
@pytest.mark.parametrize("at", [3, 6])
def test_a_log_that_is_gone_is_written_again(folder, trained, tmp_path, monkeypatch, harm, at):
    """The checkpoint has all of it, of finished trainings too."""
    out, made = tmp_path / "out", trainings.adapter_recipe(folder)
    whole, _ = trained
    with monkeypatch.context() as patch:
        patch.setattr(loop, "losses", trainings.interrupted_at(at))
        assert train_adapter(made, out, device="cpu").step == at
    if harm == "lost":
        (out / "log.parquet").unlink()
    elif harm == "damaged":
        (out / "log.parquet").write_bytes((out / "log.parquet").read_bytes()[:100])
    else:
        write_log(out, read_log(out)[:1])
    assert train_adapter(made, out, device="cpu").finished
    assert trainings.log(out).equals(trainings.log(whole))


def test_no_figure_without_altair(trained, tmp_path, monkeypatch):
    out, _ = trained
    monkeypatch.setitem(sys.modules, "altair", None)
    assert draw(tmp_path, write_log(tmp_path, read_log(out)), "x") is None
