"""Roles by words: the tokens of a column's text, wherever it stands in a prompt."""

import numpy as np
import polars as pl
import pytest

import actstore
import tiny
from actstore.commands.main import run
from actstore_extract.recipe.recipe import PromptSection, RecipeError, load
from actstore_extract.recipe.worded import places, word_columns
from actstore_extract.replay.reader import Reader, stored
from actstore_extract.roles import parse_role
from actstore_extract.run.encoder import prompt_of
from tiny_chats import CHATML, LLAVA, chatting

ROW = {"sample_id": "s", "prompt_order": "text", "image": None, "kind": "seven", "n": 7}


def stands(prompt: str, template: str | None = None, **row: object) -> list[str] | None:
    found = places(PromptSection(text=template), {**ROW, "prompt": prompt, **row}, {"kind": "kind"})
    return [prompt[start:stop] + f"@{start}" for start, stop in found["kind"]] if found else None


def test_where_a_column_stands():
    assert stands("is seven seven") == ["seven@3", "seven@9"]
    assert stands("is seven seven", "is {kind} seven") == ["seven@3"]  # the other is the template's
    assert stands("seventy, eleven-seven's") == ["seven@16"]
    assert stands("Is it Seven?") is None
    assert stands("中国的首都", kind="中国") == ["中国@0"]
    assert stands("a  is ,  is ", "a{kind},{kind}", kind="  is ") == ["is@3", "is@9"]
    assert stands(" x", "{kind}x", kind=" ") is None
    assert stands("a 007 is", "a {kind:0>3} is", kind="7") == ["007@2"]
    row = {"prompt": "<image><image> seven", "image": ["a", "b"]}
    assert stands(template="<images> {kind}", **row) == ["seven@15"]
    assert stands("xx seven", {"text": "xx {kind}", "image-text": "<image> {kind}"}) == ["seven@3"]


def recipe_of(tmp_path, roles, **more):
    path = tmp_path / "r.toml"
    lines = [f"{name} = {value}" for name, value in more.items()]
    path.write_text(
        "\n".join([*lines, "[model]", "path = 'x'", "[samples]", "source = 'digits'", "[capture]", f"roles = {roles}"])
    )
    return load(str(path))


def test_a_role_by_words_is_of_one_column(tmp_path):
    patch = "{ name = 'word-n-2-patch', pairs = [['a', 'b']] }"
    recipe = recipe_of(tmp_path, ["word-big-dog", "last"], conditions=f"['words-kind-knockout', {patch}]")
    columns = ["big_dog", "kind", "label", "n_2"]
    assert word_columns(recipe, columns) == {"big-dog": "big_dog", "kind": "kind", "n-2": "n_2"}


@pytest.mark.parametrize(
    ("columns", "says"),
    [(["big_dogs"], "role word-big-dog: the samples have no column 'big-dog'; did you mean 'big-dogs'"),
     (["big_dog", "big__dog"], "it names the columns big_dog and big__dog: rename one")],
)  # fmt: skip
def test_what_no_column_or_two_are_called_is_refused(tmp_path, columns, says):
    with pytest.raises(RecipeError, match=says):
        word_columns(recipe_of(tmp_path, ["word-big-dog"]), columns)


def test_names():
    assert parse_role("word-number-of-2").of == 0
    assert parse_role("words-a-007").name == "words-a-007"
    assert not parse_role("words-area-mean").is_mean


MODELS = ["chameleon", "clip_gemma", "emu3", "janus", "llama", "llava_gemma", "llava_onevision", "pixtral"]


@pytest.mark.parametrize(
    ("name", "template"),
    [(name, one) for name in MODELS for one in (None, CHATML, LLAVA) if (name, one) != ("llama", LLAVA)],  # of parts
)
def test_the_tokens_of_a_word(name, template):
    model = tiny.model(name) if template is None else chatting(name, template)
    section = PromptSection(text="{shown} is this a {kind} : one", chat=template is not None)
    pictured = name != "llama"
    orders = [("<image> ", "image-text"), (" is <image> ", "text-image")] if pictured else [("a", "text")]
    for shown, order in orders[: 1 if template is LLAVA else 2]:  # which puts images first
        row = {"sample_id": "s", "image": "i" if pictured else None, "kind": "digit seven", "shown": shown}
        row |= {"prompt": f"{shown} is this a digit seven : one", "prompt_order": order}
        encoded = model.encode(prompt_of(model, section, row, lambda _: tiny.image(), {"kind": "kind"}))
        layout = encoded.layout
        tokens = model.tokenizer.convert_ids_to_tokens(layout.token_ids)
        (last,), both = layout.words["word-kind"], layout.words["words-kind"]
        assert [tokens[i] for i in both] == ["digit", "seven"]
        assert last == both[-1]
        assert np.isin(both, np.union1d(layout.text, layout.text_before)).all()


def test_in_a_store(tmp_path):
    tiny.save(tiny.model("llama"), tmp_path / "m")
    table = pl.DataFrame(
        {"sample_id": ["a", "b", "c"], "prompt": ["this seven is", "a digit seven", "one is"],
         "the_kind": ["seven", "digit seven", "nine"]}
    )  # fmt: skip
    table.write_parquet(tmp_path / "t.parquet")
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f"conditions = ['word-the-kind-knockout']\n[model]\npath = '{tmp_path}/m'\ndtype = 'float32'\n"
        f"[samples]\nsource = 'table'\npath = '{tmp_path}/t.parquet'\n"
        "[capture]\nroles = ['word-the-kind', 'words-the-kind', 'last']\n"
    )
    assert run(["extract", str(recipe), str(tmp_path / "s")]) == 0
    store = actstore.open(tmp_path / "s")
    rows = store.sql(
        "select sample_id, position, token from rows join vocab using (token_id) "
        "where role = 'words-the-kind' and condition = 'none' order by all"
    )
    assert rows.rows() == [("a", 2, "seven"), ("b", 2, "digit"), ("b", 3, "seven")]
    again = stored(Reader(store), ["b", "c"])  # as replays see them
    assert again["b"].at("words-the-kind").tolist() == [2, 3]
    assert again["b"].at("word-the-kind").tolist() == [3]
    assert not len(again["c"].at("word-the-kind"))
    assert not len(again["b"].at("word-prompt"))
