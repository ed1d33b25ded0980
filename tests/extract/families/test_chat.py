"""Chats: the tokens of `apply_chat_template`, and the roles of what is asked in one."""

from datetime import date, datetime

import numpy as np
import pytest

import tiny
import trainings
from actstore_extract.families import Prompt
from actstore_extract.families.chat import Chat, ChatError, Message, written
from actstore_extract.roles import parse_role, positions
from tiny_chats import CHATML, LLAVA, chatting

SAID = Chat("a", (("this", "is"), ("one", "two")))
MODELS = ["chameleon", "clip_gemma", "emu3", "janus", "llama", "llava_gemma", "llava_onevision", "pixtral"]


def oracle(model, chat, text, image):
    """Tokens as Transformers makes them of the same messages."""
    pieces = [{"type": "image", "image": image} if one == "<image>" else {"type": "text", "text": one} for one in text]
    own = isinstance(model.processor, type(model.tokenizer))
    said = [("system", chat.system)] if chat.system else []
    said += [one for user, assistant in chat.turns for one in (("user", user), ("assistant", assistant))]
    messages = [
        *({"role": role, "content": one if own else [{"type": "text", "text": one}]} for role, one in said),
        {"role": "user", "content": "".join(text) if own else pieces},
    ]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True, **chat.options}
    return np.ravel(model.processor.apply_chat_template(messages, **options)["input_ids"]).tolist()


@pytest.mark.parametrize("begin", ["", "{{ bos_token }}"])
@pytest.mark.parametrize("chat", [Chat(), SAID], ids=["alone", "after turns"])
@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_transformers(name, chat, begin):
    model = chatting(name, begin + CHATML)
    image = None if name == "llama" else tiny.image()
    text = [*(["<image>"] if image else []), " this digit is a"]
    encoded = model.encode(chat.prompt(model, Prompt("s", "".join(text), image)))
    ids = encoded.layout.token_ids.tolist()
    doubled = name == "emu3" and begin != ""  # by Transformers
    assert ids == oracle(model, chat, text, image)[doubled:]
    assert ids.count(model.tokenizer.bos_token_id) == (bool(begin) or name not in ("llama", "llava_onevision"))


def test_pictures_of_earlier_turns():
    """As Transformers has them: in the order in which they are shown."""
    model = chatting("llava_gemma", CHATML)
    a, b = tiny.image(0), tiny.image(1)
    own = Chat(turns=(("<image> this", "one"),)).prompt(model, Prompt("s", "<image> digit", (a, b)))
    part = {"image": {"type": "image", "image": a}, "text": {"type": "text", "text": " this"}}
    messages = [
        {"role": "user", "content": [part["image"], part["text"]]},
        {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
        {"role": "user", "content": [{"type": "image", "image": b}, {"type": "text", "text": " digit"}]},
    ]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    theirs = model.processor.apply_chat_template(messages, **options)
    encoded = model.encode(own)
    assert encoded.layout.token_ids.tolist() == np.ravel(theirs["input_ids"]).tolist()
    np.testing.assert_array_equal(encoded.inputs["pixel_values"], np.stack(theirs["pixel_values"]))
    assert encoded.layout.n_pictures == 2


def test_roles_of_a_chat():
    model = chatting("llava_gemma", LLAVA)
    encoded = model.encode(Chat("a").prompt(model, Prompt("s", "<image>this digit", tiny.image())))
    ids = model.tokenizer.convert_ids_to_tokens(encoded.layout.token_ids.tolist())

    def at(role):
        return positions(parse_role(role), encoded.layout, seed=0, sample_id="s").tolist()

    assert ids[0] == "<s>"
    assert ids[-3:] == ["this", "digit", "<unk>"]  # ASSISTANT: is no word of this tokenizer
    image = [i for i, token in enumerate(ids) if token == "<image>"]
    assert at("image") == image
    assert at("text") == [image[-1] + 1, image[-1] + 2, image[-1] + 3]
    assert at("last") == [len(ids) - 1]
    assert at("prefix") == list(range(image[-1]))
    assert at("suffix") == list(range(image[-1], len(ids)))
    assert encoded.layout.text_before.tolist() == [1, 2]  # the system's, and USER:
    assert encoded.layout.modality(encoded.layout.text).tolist() == ["text"] * 3


def test_what_the_template_writes_behind_the_image_is_not_what_is_asked():
    model = chatting("llava_gemma", CHATML)
    encoded = model.encode(SAID.prompt(model, Prompt("s", "this digit <image>", tiny.image())))
    pixtral = chatting("pixtral", CHATML)
    assert Chat().prompt(pixtral, Prompt("s", "this [IMG]", tiny.image())).image_last  # its own marker
    ids = model.tokenizer.convert_ids_to_tokens(encoded.layout.token_ids.tolist())
    layout = encoded.layout
    assert layout.text.tolist() == layout.text_before.tolist() == list(range(1, ids.index("<image>")))
    assert ids.index("this", ids.index("two")) in layout.text
    assert set(layout.modality(layout.text_before[-1:] + 17).tolist()) == {"special"}


def test_a_template_that_moves_or_drops_what_is_said_is_refused():
    model = chatting("llava_gemma", LLAVA)
    with pytest.raises(ChatError, match="moves an image of what the user says"):
        Chat().prompt(model, Prompt("s", "this digit <image>", tiny.image()))
    model.processor.chat_template = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
    with pytest.raises(ChatError, match="leaves out 'two' of what the assistant says"):
        Chat(turns=(("this", "two"),)).prompt(model, Prompt("s", "digit"))
    model.processor.chat_template = "{{ messages[0].content }}{{ messages[0].content }}"
    with pytest.raises(ChatError, match="writes 2 images for 1"):
        Chat().prompt(model, Prompt("s", "<image>digit", tiny.image()))
    with pytest.raises(ChatError, match="cannot write this conversation: Conversation roles must alternate"):
        written([Message("assistant", "one")], model, trainings.GEMMA)


def test_thoughts_of_earlier_answers_may_be_left_out():
    model = chatting("llama", "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}")
    assert written([Message("user", "a"), Message("assistant", "<think>one</think> two")], model) == "a two"


def test_a_model_without_a_template():
    for name in ("llava_gemma", "llama"):
        with pytest.raises(ChatError, match="has no chat template: give one as chat_template, or ask without"):
            Chat().end(tiny.model(name))


def test_the_date_is_the_same_on_every_day():
    model = chatting("llama", "{{ strftime_now('%d %b %Y') }}: {{ messages[0].content }}{% if thinks %} a{% endif %}")
    with pytest.raises(ChatError, match=r"writes the day's date.*\[prompt\] today = "):
        Chat().end(model)
    chat = Chat(today=date(2026, 1, 31), options={"thinks": True})
    assert chat.prompt(model, Prompt("s", "one")).text == "31 Jan 2026: one a"
    assert chat.end(model) == " a"
    assert written([Message("user", "one")], model).startswith(datetime.now().astimezone().strftime("%d %b"))
