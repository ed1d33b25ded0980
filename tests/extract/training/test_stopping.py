"""Ctrl-C, once and twice."""

import os
import signal

import pytest

import trainings
from actstore.commands import main
from actstore_extract.training import loop, stopping
from actstore_extract.training.loss import losses


def test_ctrl_c_says_what_is_kept(folder, tmp_path, capsys, monkeypatch):
    def interrupted(model, examples):
        os.kill(os.getpid(), signal.SIGINT)
        return losses(model, examples)

    trainings.adapter_recipe(folder)
    monkeypatch.setattr(loop, "losses", interrupted)
    status = main.run(["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", "cpu"])
    assert status not in (0, 1)
    assert "stopped; 0 of 6 steps are kept; the same command goes on" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_at_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    with stopping.stopping() as stop:
        for _ in range(2):  # one of them from torchrun
            signal.raise_signal(signal.SIGINT)
        assert stop.asked
        now[0] = 3.0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
