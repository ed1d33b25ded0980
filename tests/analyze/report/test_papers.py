"""The page that maps figures to commands names nothing that is not there."""

import re
from importlib.resources import files

import click
import pytest

from actstore.commands.main import cli
from actstore_extract.recipe.shelf import shipped
from actstore_extract.training.recipe import shipped as trainings

PAGE = (files("actstore_analyze") / "PAPERS.md").read_text(encoding="utf-8")
MODELS = ["chameleon-7b", "chameleon-34b", "emu3", "llava-onevision-7b", "pixtral-12b", "janus-1.3b"]
QUOTED = re.findall(r"`([^`\n]+)`", PAGE)
CALLS = sorted({words for words in QUOTED if words.startswith("actstore ")})


def test_recipes_ship():
    named = [one for one in QUOTED if re.fullmatch(r"(MODEL|clip-gemma-2-2b)/[\w-]+|digits-[\w-]+", one)]
    assert len(named) > 20
    missing = [
        name
        for one in named
        for name in ([one.replace("MODEL", model) for model in MODELS] if one.startswith("MODEL") else [one])
        if name not in shipped() and name not in trainings()
    ]
    assert not missing


def test_trainings_name_their_recipes():
    """All that ship, each behind the command of its kind."""
    named = re.findall(r"`actstore train (adapter|lora) ([\w-]+) OUT[^`]*`", PAGE)
    assert {name: kind for kind, name in named} == {name: one.data["kind"] for name, one in trainings().items()}


@pytest.mark.parametrize("call", CALLS)
def test_commands_and_their_options_are_there(call):
    _, *words = call.split()
    command: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, call
        command = found
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known, call
