import re

import polars as pl
import pytest
from PIL import Image

from actstore.format.plan import prepare
from actstore_extract.recipe import prompts, recipe
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.samples import SOURCES, Samples


def planned(*overrides, limit=2):
    made = recipe.load("digits-fusion", [f"samples.limit={limit}", *overrides])
    return prompts.plan(made, made.samples.samples())


def over(table, text):
    made = recipe.load("digits-fusion").model_copy(update={"prompt": recipe.PromptSection(text=text)})
    return prompts.plan(made, Samples(table, lambda _: Image.new("RGB", (1, 1))))


FLICKR = pl.DataFrame(
    {"sample_id": ["1.jpg", "2.jpg"], "captions": [["A dog.", "A {cat}."], ["Two."]], "image": ["1.jpg", "2.jpg"]}
)


def test_prompts_take_columns_of_the_sample():
    table = planned("prompt.text='<image>is this {label}?'")
    assert table["prompt"].to_list() == ["<image>is this zero?", "<image>is this one?"]
    assert table["prompt_order"].to_list() == ["image-text"] * 2


def test_a_list_stands_without_separators():
    table = over(FLICKR, "{captions} <image>")
    assert table["prompt"].to_list() == ["A dog.A {cat}. <image>", "Two. <image>"]
    assert table["prompt_order"].to_list() == ["text-image"] * 2
    assert over(FLICKR, "<image>{captions[0]}")["prompt"].to_list() == ["<image>A dog.", "<image>Two."]


def test_each_sample_is_asked_in_each_order():
    orders = {"image-text": "<image> {captions}", "text-image": "{captions} <image>", "text": "{captions}"}
    table = over(FLICKR, orders)
    assert table.select("sample_id", "prompt", "prompt_order", "image").rows()[:4] == [
        ("1.jpg/image-text", "<image> A dog.A {cat}.", "image-text", "1.jpg"),
        ("1.jpg/text-image", "A dog.A {cat}. <image>", "text-image", "1.jpg"),
        ("1.jpg/text", "A dog.A {cat}.", "text", None),
        ("2.jpg/image-text", "<image> Two.", "image-text", "2.jpg"),
    ]
    assert prepare(table).height == 6


def test_one_order_leaves_the_ids():
    table = over(FLICKR, {"text": "Consider the following information: {captions[0]}"})
    assert table["sample_id"].to_list() == ["1.jpg", "2.jpg"]
    assert table["image"].null_count() == 2


@pytest.mark.parametrize("text", [{"text": "<image>{captions}"}, {"image-text": "{captions}"}])
def test_an_order_and_its_marker_agree(text):
    with pytest.raises(RecipeError, match="<image> belongs into image-text and text-image alone"):
        over(FLICKR, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<image>is this {lable}?", "have no column 'lable'; did you mean 'label'?"),
        ("<image>is this {label.upper}?", "have no column 'label.upper'"),
        ("<image>is this {}?", "have no column ''"),
        ("<image>is this {label?", "write {{ for a brace"),
        ("<image>is this {label:d}?", "sample digit-0000: Unknown format code 'd'"),
    ],
)
def test_a_template_that_cannot_be_filled(text, message):
    with pytest.raises(RecipeError, match=message):
        planned(f"prompt.text='{text}'")


def test_a_sample_without_what_the_template_names():
    """It has no prompt, and fails alone; a recipe that no sample fills in is refused."""
    assert over(FLICKR, "<image>{captions[1]}")["prompt"].to_list() == ["<image>A {cat}.", None]
    answered = FLICKR.with_columns(answer=pl.Series(["a", None]))
    asked = over(answered, "<image>{answer}")
    assert asked.select("prompt", "prompt_order").rows() == [("<image>a", "image-text"), (None, None)]
    with pytest.raises(RecipeError, match="sample 2.jpg has no answer"):
        over(answered.tail(1), "<image>{answer}")


@pytest.mark.parametrize(
    ("values", "text", "message"),
    [
        ([None, float("nan")], "{x}", "sample 1.jpg has no x"),
        ([["a", None], ["a", None]], "{x}", "sample 1.jpg: an item is missing"),
        ([[None], [None, "a"]], "{x[0]}", "sample 1.jpg: an item is missing"),
        ([[None], [None, "a"]], "{x[0]!s}", "sample 1.jpg: an item is missing"),
        ([{"answer": "a"}, {"answer": "b"}], "{x}", "sample 1.jpg: {'answer': 'a'} is no text"),
        ([[{"answer": "a"}], [{"answer": "b"}]], "{x[0]}", "sample 1.jpg: {'answer': 'a'} is no text"),
        ([b"a", b"b"], "{x}", "sample 1.jpg: b'a' is no text"),
    ],
)
def test_what_is_no_text_never_becomes_a_word(values, text, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        over(FLICKR.with_columns(x=pl.Series(values)), f"<image>{text}")


def test_texts_and_numbers_are_formatted():
    table = FLICKR.with_columns(x=pl.Series([1.25, 2.0]), n=pl.Series([[1, 2], [3]]))
    assert over(table, "<image>{x:.1f} {n} {n[0]:02d}")["prompt"].to_list() == ["<image>1.2 12 01", "<image>2.0 3 03"]


def test_braces_are_doubled():
    assert over(FLICKR, "<image>{{{captions[0]}}}")["prompt"][0] == "<image>{A dog.}"


def test_samples_without_prompt_need_one_in_the_recipe():
    with pytest.raises(RecipeError, match=r"no column prompt: set \[prompt\] text"):
        over(FLICKR, None)


def test_a_prompt_of_the_samples_own_is_taken_as_it_is(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": "a.png", "prompt": "<image>{what}?"}\n')
    samples = SOURCES["table"](source="table", path=tmp_path / "t.jsonl").samples()
    made = recipe.load("digits-fusion").model_copy(update={"prompt": recipe.PromptSection()})
    assert prompts.plan(made, samples)["prompt"].to_list() == ["<image>{what}?"]
