"""The list of keys: each is said in words, and a recipe may have its example."""

import json
import tomllib
from typing import Annotated

import pytest
from click.testing import CliRunner
from pydantic import Field, TypeAdapter

from actstore.errors import ActstoreError
from actstore_extract.recipe.keys import NEEDED, SECTIONS, keys
from actstore_extract.recipe.recipe import made
from actstore_extract.run.command import recipes
from actstore_extract.training.recipe import SECTIONS as TRAINING

EVERY = list(keys())
CONDITIONS = {
    "knockout": {"name": "cut", "keys": ["random-text-3"]},
    "patch": {"name": "put", "patch": "eoi", "pairs": [["one", "two"]]},
    "steer": {"name": "push", "steer": "eoi", "layers": [1], "vector": "x.npy"},
}


def needed(section):
    """The examples of what a section has to have."""
    return tomllib.loads("\n".join(key.example for key in EVERY if key.section == section and key.default == NEEDED))


def recipe_with(key):
    """A small recipe with the example of a key where it belongs."""
    given = tomllib.loads(key.example)
    recipe = {
        "model": {"path": "x"},
        "samples": {"source": "digits"},
        "prompt": {"chat": True},
        "capture": needed("capture"),
    }
    section, _, rest = key.section.partition(", ")
    if section == "top":
        return recipe | given
    if section == "conditions":
        return recipe | {"conditions": [CONDITIONS[rest] | given]}
    if section == "prompt.turns":
        return recipe | {"prompt": {"chat": True, "turns": [needed(section) | given]}}
    if section.startswith("samples"):
        source = {"source": section.removeprefix("samples of ")} if " of " in section else {"source": "digits"}
        own = needed(f"samples of {(source | given)['source']}")
        return recipe | {"samples": {**source, **own, **given}}
    base = {} if key.key == "gguf" else recipe[section]
    return recipe | {section: base | given}


@pytest.mark.parametrize("key", EVERY, ids=lambda key: f"{key.section}:{key.key}")
def test_a_key_is_said_in_words_and_its_example_is_taken(key):
    assert key.meaning.endswith((".", ")"))
    assert made(recipe_with(key))


@pytest.mark.parametrize("section", TRAINING)
def test_keys_of_a_training_have_examples_that_are_taken(section):
    for key in keys({section: TRAINING[section]}):
        field = TRAINING[section].model_fields[key.key]
        given = tomllib.loads(key.example)[key.key]
        TypeAdapter(Annotated[(field.annotation, Field(), *field.metadata)]).validate_python(given)
        assert key.meaning.endswith(".")


def test_no_key_is_without_words():
    kinds = {*SECTIONS.values(), *TRAINING.values()}
    silent = {name for kind in kinds for name, field in kind.model_fields.items() if field.description is None}
    assert silent == {"model", "samples", "source", "prompt", "capture", "data", "training", "facts"}


def test_the_command_lists_a_section_a_source_and_a_key():
    every = CliRunner().invoke(recipes, ["keys"]).stdout.splitlines()
    assert len(every) == len(EVERY)
    found = [json.loads(line) for line in CliRunner().invoke(recipes, ["keys", "capture"]).stdout.splitlines()]
    assert {one["section"] for one in found} == {"capture"}
    assert [one["default"] for one in found if one["key"] in ("roles", "batch_size")] == [NEEDED, "16"]
    (mine,) = [json.loads(line) for line in CliRunner().invoke(recipes, ["keys", "per_class"]).stdout.splitlines()[:1]]
    assert mine["section"] == "samples of imagefolder"
    with pytest.raises(ActstoreError, match=r"no section and no key is called 'rols'; did you mean 'roles'\?"):
        CliRunner().invoke(recipes, ["keys", "rols"], catch_exceptions=False)
