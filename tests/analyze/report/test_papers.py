"""The page that maps figures to commands names nothing that is not there."""

import itertools
import re
import shlex
import tomllib
from functools import partial

import click
import pytest

from actstore.commands.main import cli
from actstore.errors import ActstoreError
from actstore_extract.recipe.inline import conditions_of
from actstore_extract.recipe.recipe import load
from actstore_extract.recipe.shelf import shipped
from actstore_extract.training.recipe import TrainingRecipe
from actstore_extract.training.recipe import load as load_training
from actstore_extract.training.recipe import shipped as trainings
from papers_page import MODELS, PAGE, QUOTED, rows


def _changes(words):
    """What follows each --set."""
    words = shlex.split(words.replace("\\\n", " ")) if "--set" in words else []
    return [after for word, after in itertools.pairwise(words) if word == "--set"]


INDENTED = re.findall(r"^ {4}(actstore (?:[^\n]*\\\n)*[^\n]*)$", PAGE, re.MULTILINE)
CALLS = sorted({*(words for words in QUOTED if words.startswith("actstore ")), *INDENTED})
CHANGES = sorted({one for words in [*QUOTED, *INDENTED] for one in _changes(words)})
CONDITIONS = sorted({words for words in QUOTED if words.startswith("{ name = ")})


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


def test_every_recipe_of_the_papers_is_in_the_table():
    listed = {recipe for row in rows() for recipe in row.recipes}
    assert listed == {name for name in shipped() if "/" in name}


def test_trainings_name_their_recipes():
    """All that ship, each behind the command of its kind."""
    named = re.findall(r"`actstore train (adapter|lora) ([\w-]+) OUT[^`]*`", PAGE)
    assert {name: kind for kind, name in named} == {name: one.data["kind"] for name, one in trainings().items()}


def test_the_table_of_differences_has_all_its_cells():
    """Five of each, none empty but in headings."""
    _, _, table = PAGE.partition("## Where paper, code and this package differ")
    lines = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith("| **")]
    assert len(lines) > 55
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert {len(row) for row in cells} == {5}
    assert not [row for row in cells if "" in row]


@pytest.mark.parametrize("call", CALLS)
def test_commands_parse(call):
    """As click parses them, from the command to the last value."""
    _, *words = shlex.split(call.replace("\\\n", " "))
    command: click.Command = cli
    while words and isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            break
        command, words = found, words[1:]
    assert command is not cli, call
    if words:  # else the page speaks of a command by its name
        command.make_context(command.name, words)


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_keys_of_a_recipe(change):
    """Of one for extraction, or of one that trains."""
    said = []
    recipes = [partial(load, name) for name in ("chameleon-7b/patching", "chameleon-7b/vqa", "clip-gemma-2-2b/sae")]
    for recipe in (*recipes, *(partial(load_training, name, TrainingRecipe) for name in trainings())):
        try:
            recipe([change])
            return
        except ActstoreError as error:
            said.append(str(error))
    pytest.fail("\n".join(said))


@pytest.mark.parametrize("words", CONDITIONS)
def test_conditions_are_knockouts(words):
    assert tomllib.loads(f"one = {words}")
    assert len(conditions_of([words], n_layers=8)) == 2
