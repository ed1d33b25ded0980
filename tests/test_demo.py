"""The demo, from the first command to the page, on the models that ship."""

import pytest

from actstore.commands import demo, real
from actstore.commands.main import cli, run
from pages import Page


@pytest.mark.parametrize("which", [demo, real])
def test_every_step_is_a_command_with_options_that_it_has(tmp_path, which):
    for name, *arguments in which.steps(tmp_path):
        command = cli.get_command(cli.make_context("actstore", ["demo"], resilient_parsing=True), name)
        command.make_context(name, arguments)


@pytest.mark.slow
def test_the_gate_that_was_built_in_is_seen_and_the_other_is_a_null(tmp_path):
    assert run(["demo", "--out", str(tmp_path)]) == 0
    words = Page((tmp_path / "report.html").read_text()).words
    knocked = words.partition("Attention knockout, k = 10")[2]
    fusion, gated = (knocked.partition(f"{name} ({name.partition('-')[2]}-knockout):")[2] for name in MODELS)
    assert "eoi blocked" in fusion
    assert "no change that the intervals show" in fusion.partition("eoi blocked")[2].partition(";")[0]
    assert "a fall to chance" in gated.partition("eoi-pre blocked")[2].partition(";")[0]
    fusion, gated = (
        words.partition(f"{name} ({name.partition('-')[2]}-patch), the residual stream")[2] for name in MODELS
    )
    assert ": a null, the patch does not move what the model says." in fusion.partition("digits-gated")[0]
    assert ": the patch carries what the source says." in gated[:400]
    both = words.partition("As it ran, and replayed")[2]
    assert "a null both ways" in both
    assert "the patch carries what the source says, both ways" in both
    assert "seven.npy - other.npy" in words


MODELS = ("digits-fusion", "digits-gated")
