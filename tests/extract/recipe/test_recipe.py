import os

import pytest

from actstore_extract.recipe import recipe
from actstore_extract.recipe.recipe import RecipeError

GOOD = """
[model]
path = "digits-fusion"
[samples]
source = "digits"
[prompt]
text = "<image>this digit is a"
[capture]
roles = ["eoi", "end-image", "last-image"]
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_recipe_in_a_file(written):
    found = recipe.load(written(GOOD))
    assert (found.name, found.seed, found.model.dtype) == ("mine", 0, None)
    assert found.capture.roles == ["eoi", "last-image"]  # an alias is its role


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[model]", "[modle]", "unknown key 'modle'; did you mean 'model'?"),
        ("path =", "pth =", r"\[model\]: unknown key 'pth'; did you mean 'path'?"),
        ("roles =", "role =", r"\[capture\]: unknown key 'role'; did you mean 'roles'?"),
        ('source = "digits"', 'source = ["digits"]', r"source \['digits'\] is not one of "),
        ('source = "digits"', 'source = "digit"', r"source 'digit' is not one of .*; did you mean 'digits'?"),
        ('source = "digits"', 'source = "digits"\nlimt = 3', r"\[samples\]: unknown key 'limt'; did you mean 'limit'?"),
        ('"eoi"', '"lst-image"', r"\[capture\] roles: no role is called 'lst-image'; did you mean 'last-image'?"),
        ('["eoi", "end-image", "last-image"]', "[]", r"\[capture\] roles: List should have at least 1 item"),
        ('path = "digits-fusion"', "path = 3", r"\[model\] path: Input should be a valid string"),
        ('path = "digits-fusion"', 'path = "x"\ndtype = "int8"', r"\[model\] dtype: Input should be 'bfloat16'"),
        ("[prompt]", "[prompt", "mine.toml: "),
        (
            'text = "<image>this digit is a"',
            "text = {text-imge = '{label}<image>'}",
            r"\[prompt\] text: no order is called 'text-imge'; did you mean 'text-image'?",
        ),
        ('text = "<image>this digit is a"', "text = {}", r"\[prompt\] text: no order"),
        ("roles =", 'attention = ["eo"]\nroles =', r"\[capture\] attention: no role is called 'eo'"),
        ("roles =", "max_new_tokens = -1\nroles =", r"\[capture\] max_new_tokens: Input should be greater"),
        ('[prompt]\ntext = "<image>this digit is a"', "", None),
    ],
)
def test_a_mistake_is_named(written, before, after, message):
    text = written(GOOD.replace(before, after))
    if message is None:
        assert recipe.load(text).prompt.text is None
        return
    with pytest.raises(RecipeError, match=message):
        recipe.load(text)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="no recipe 'digits-fuson': .*; did you mean 'digits-fusion'?"):
        recipe.load("digits-fuson")


def test_overrides():
    found = recipe.load("digits-fusion", ["samples.limit=7", "model.path=/models/mine", "seed=3"])
    assert (found.samples.limit, found.model.path, found.seed) == (7, "/models/mine", 3)


@pytest.mark.parametrize("override", ["samples.limit", "=3", "a.b.c=1"])
def test_a_bad_override_says_its_form(override):
    with pytest.raises(RecipeError, match=r"write section.key=value"):
        recipe.load("digits-fusion", [override])


def test_an_override_of_nothing_names_the_nearest():
    with pytest.raises(RecipeError, match=r"\[samples\]: unknown key 'limits'; did you mean 'limit'?"):
        recipe.load("digits-fusion", ["samples.limits=3"])


def test_overrides_leave_the_recipe_that_ships():
    recipe.load("chameleon-7b/overlap", ["prompt.text=x", "samples.limit=1", "capture.mass=false"])
    found = recipe.load("chameleon-7b/overlap")
    assert (found.prompt.text, found.samples.limit, found.capture.mass) == ("<image> This animal is a", None, True)


@pytest.mark.parametrize(
    "text", ["seed = 1" + "0" * 400, "seed = " + "9" * 5000, "seed = " + "[" * 3000, "[samples]\nlimit = 1" + "0" * 30]
)
def test_numbers_and_depths_beyond_counting(written, text):
    with pytest.raises(RecipeError):
        recipe.load(str(written(text)))


def test_a_recipe_in_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "mine.toml")
    with pytest.raises(RecipeError, match=r"mine.toml: it is a pipe that nobody writes to"):
        recipe.load(str(tmp_path / "mine.toml"))
    reader, writer = os.pipe()
    os.write(writer, b"seeds = 1")
    os.close(writer)
    with pytest.raises(RecipeError, match=r"unknown key 'seeds'; did you mean 'seed'"):
        recipe.load(f"/dev/fd/{reader}")  # as a shell's <(...)
    os.close(reader)


def test_set_below_what_is_no_section(written):
    with pytest.raises(RecipeError, match="'samples' is no section of the recipe, but 3"):
        recipe.load(str(written("samples = 3")), ["samples.limit=1"])
