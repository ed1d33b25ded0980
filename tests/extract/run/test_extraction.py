"""Extraction in Python: a dictionary, a file and a name that ships give the same store."""

from copy import deepcopy

import pytest

import actstore_extract
from actstore import ActstoreError
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.recipe.shelf import shipped
from extracting import SMALL, vectors

FEW = [*SMALL, "samples.limit=4"]


def test_a_dictionary_a_file_and_a_name_give_the_same(tmp_path):
    said = []
    recipe = shipped()["digits-fusion"]
    before, file = deepcopy(recipe.data), tmp_path / "mine.toml"
    file.write_text(recipe.text)
    store = actstore_extract.extract(recipe.data, tmp_path / "a", changes=FEW, say=said.append)
    assert store.sql("from samples").height == 4
    assert recipe.data == before
    assert "4 of 4 samples left" in said
    for name, one in (("b", file), ("c", "digits-fusion")):
        actstore_extract.extract(one, str(tmp_path / name), changes=FEW, say=said.append)
        assert vectors(tmp_path / name) == vectors(tmp_path / "a")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"recipe": 5}, "a recipe without sections is a path, not 5"),
        ({"path": None}, "a store is a path, not None"),
        ({"changes": 5}, "changes are names in a list, not 5"),
        ({"changes": {"samples.limit": 4}}, "changes are names in a list, not"),
        ({"changes": "samples.limt=4"}, "limt"),  # one alone, whole
        ({"batch_size": 0}, "batch_size is at least 1, not 0"),
        ({"batch_size": 2.5}, "batch_size is a whole number, not 2.5"),
        ({"share": 3}, "share is text, not 3"),
        ({"device": 0}, "device is text, not 0"),
    ],
)
def test_what_is_no_run(tmp_path, given, error):
    with pytest.raises(ActstoreError, match=error):
        actstore_extract.extract(**{"recipe": "digits-fusion", "path": tmp_path / "s"} | given)
    assert list(tmp_path.iterdir()) == []


def test_bad_recipes(tmp_path):
    with pytest.raises(RecipeError, match=r"mine: \[samples\] source None is not one of"):
        actstore_extract.extract({"name": "mine"}, tmp_path / "s")
    with pytest.raises(RecipeError, match="modle"):
        actstore_extract.extract({"modle": {}}, tmp_path / "s")
