"""Progress where standard error is no terminal."""

import re
import time

import pytest

from actstore import progress


def test_a_line_every_minute(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.02)
    with progress.bar(4, "steps") as one:
        time.sleep(0.1)  # a long step says that it is under way
        one.advance(2, note="loss 2.71")
        time.sleep(0.1)
    time.sleep(0.05)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "0 of 4 steps"
    assert re.fullmatch(r"2 of 4 steps, loss 2\.71, about \d+ s left", lines[-1])
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_what_is_done_within_a_minute_says_nothing(capsys):
    with progress.bar(4, "steps") as one:
        one.advance(4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("kernel", "drawn"), [(False, True), (True, False)])
def test_a_command_in_a_notebook_draws_no_bar(monkeypatch, capsys, kernel, drawn):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a kernel says to its commands, whose standard error is a terminal
    monkeypatch.setenv("TERM", "xterm-color")
    monkeypatch.setenv("JPY_PARENT_PID", "1") if kernel else monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    with progress.bar(4, "steps") as one:
        one.advance(4)
    assert ("steps" in capsys.readouterr().err) == drawn
