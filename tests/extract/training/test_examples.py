"""What is learned of a conversation, token by token."""

import pytest
from tokenizers import processors

import tiny
import trainings
from actstore_extract.families import LoadError, Prompt
from actstore_extract.families.chat import Chat
from actstore_extract.training.adapter import learner
from actstore_extract.training.conversations import Conversation
from actstore_extract.training.examples import Encoder


def tokens(model, example):
    return model.tokenizer.convert_ids_to_tokens(example.encoded.layout.token_ids.tolist())


def test_answers_token_by_token(tuned):
    said = Conversation("1", trainings.turns("<image>\nthis is a", "seven .", "and this", "one"), "x")
    example = tuned.encode(said, tiny.image())
    found = tokens(tuned.model, example)
    user, model = ["<start_of_turn>", "user"], ["<start_of_turn>", "model"]
    assert found == [
        "<s>", *["<unused0>"] * 16,
        *user, "this", "is", "a", "<end_of_turn>", *model, "seven", ".", "<end_of_turn>",
        *user, "and", "this", "<end_of_turn>", *model, "one", "<end_of_turn>",
    ]  # fmt: skip
    assert [found[start:stop] for start, stop in example.spans] == [
        ["seven", ".", "<end_of_turn>"],
        ["one", "<end_of_turn>"],
    ]
    assert not example.cut


def test_the_prompt_is_that_of_extraction(tuned):
    """What is learned is what a recipe of extraction asks, with the answer behind it."""
    said = Conversation("1", trainings.turns("<image>\nthis is a", "seven"), "x")
    ids = tuned.encode(said, tiny.image()).encoded.layout.token_ids
    prompt = "<image><start_of_turn>user\nthis is a<end_of_turn>\n<start_of_turn>model\n"
    asked = tuned.model.encode(Prompt("1", prompt, tiny.image())).layout.token_ids
    assert ids[: len(asked)].tolist() == asked.tolist()
    assert len(ids) == len(asked) + 2


def test_an_answer_in_the_prompts_own_words(tuned):
    """Found by where it is, not by what it says."""
    said = Conversation("1", trainings.turns("<image> this is a", "this is a", "this is a", "this"), "x")
    example = tuned.encode(said, tiny.image())
    found = tokens(tuned.model, example)
    assert [found[start:stop] for start, stop in example.spans] == [
        ["this", "is", "a", "<end_of_turn>"],
        ["this", "<end_of_turn>"],
    ]
    assert example.spans[0][0] > 22


def test_a_template_begins_with_what_the_tokenizer_does_not_add(tuned, monkeypatch):
    """ChatML: the token that begins texts begins every turn, and no tokenizer puts it in front of a text."""
    words = tuned.model.tokenizer.backend_tokenizer
    before = words.post_processor
    words.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    chatml = (
        "{% for m in messages %}{{ bos_token }} {{ m['role'] }} {{ m['content'] }} . {% endfor %}"
        "{% if add_generation_prompt %}{{ bos_token }} assistant {% endif %}"
    )
    try:
        said = Conversation("1", trainings.turns("<image>\nthis is a", "seven"), "x")
        example = tuned.encode(said, tiny.image(), chatml)
        monkeypatch.setattr(tuned.model.processor, "chat_template", chatml)
        asked = tuned.model.encode(Chat().prompt(tuned.model, Prompt("1", "<image>this is a", tiny.image())))
    finally:
        words.post_processor = before
    found = tokens(tuned.model, example)
    assert found == [
        "<s>", *["<unused0>"] * 16, "user", "this", "is", "a", ".", "<s>", "<unk>", "seven", ".",
    ]  # fmt: skip
    assert [found[start:stop] for start, stop in example.spans] == [["seven", "."]]
    ids = tuned.model.tokenizer.convert_ids_to_tokens(asked.layout.token_ids.tolist())
    assert ids[:3] == ["<s>", "user", "<unused0>"]


def test_the_image_is_never_cut(made):
    tuned = learner(trainings.adapter_recipe(made, "training.max_length=14"), trainings.CPU)
    said = Conversation("1", trainings.turns("<image> this is a", "seven seven seven seven", "and", "one"), "x")
    example = tuned.encode(said, tiny.image())
    found = tokens(tuned.model, example)
    assert example.cut
    assert len(found) == 14 + 16  # tokens of text, and all of the image
    assert found[1:17] == ["<unused0>"] * 16
    assert [found[start:stop] for start, stop in example.spans] == [["seven"] * 4 + ["<end_of_turn>"]]
    assert example.encoded.inputs["input_ids"].shape == example.encoded.inputs["attention_mask"].shape == (1, 30)
    assert not Encoder(tuned.model, 5, image_first=True)(said, tiny.image()).spans


def test_a_tokenizer_that_cannot_say_where_its_tokens_are(tuned, monkeypatch):
    monkeypatch.setattr(type(tuned.model.tokenizer), "is_fast", False)
    with pytest.raises(LoadError, match="cannot say where in a text its tokens are"):
        Encoder(tuned.model, 64, image_first=True)
