"""Several pictures in a prompt: which tokens are whose."""

import numpy as np
import pytest
import torch

import pictured
import tiny
from actstore_extract.families import Prompt, SampleError
from actstore_extract.roles import parse_role, positions

TEXT = "<image> this digit <image> is a"
MODELS = ["chameleon", "clip_gemma", "janus", "llava_gemma", "llava_onevision", "pixtral"]
SIZES = {"pixtral": [(8, 8), (16, 8)], "llava_onevision": [(8, 8), (8, 16)]}


def pictures(name):
    return [tiny.image(i, size) for i, size in enumerate(SIZES.get(name, [(8, 8)] * 2))]


def embedded(model, *prompts):
    """What enters block 0: (slots, d) of each sample of one batch."""
    seen = []
    hook = model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    batch = model.collate([model.encode(prompt) for prompt in prompts])
    with hook, torch.no_grad():
        model(batch)
    return list(seen[0])


@pytest.mark.parametrize("name", MODELS)
def test_each_picture_is_where_it_is_said_to_be(name):
    """Pictures that change places take their vectors along."""
    model = tiny.model(name)
    a, b = pictures(name)
    both, swapped = Prompt("s", TEXT, (a, b)), Prompt("s", TEXT, (b, a))
    own, other = model.encode(both).layout, model.encode(swapped).layout
    assert len(own.spans) == own.n_pictures == 2
    x, y = (embedded(model, prompt)[0] for prompt in (both, swapped))
    for mine, its in ((0, 1), (1, 0)):
        torch.testing.assert_close(x[own.spans[mine].image], y[other.spans[its].image])
        assert not torch.allclose(x[own.spans[0].image[:4]], y[other.spans[0].image[:4]])
    words = model.tokenizer.convert_tokens_to_ids(["this", "digit", "is", "a"])
    assert own.token_ids[own.text_before].tolist() == words[:2]
    assert own.token_ids[own.text].tolist() == words[2:]
    assert own.modality(own.text_before).tolist() == ["text"] * 2


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_those_of_the_processor(name):
    model = tiny.model(name)
    own = model.kind.marker(model)
    text = TEXT.replace("<image>", own)
    options = dict(model.kind.process_options)
    ids = model.processor(text=[text], images=[pictures(name)], return_tensors="pt", **options)["input_ids"][0]
    assert model.encode(Prompt("s", TEXT, tuple(pictures(name)))).layout.token_ids.tolist() == ids.tolist()


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_one_two_and_no_pictures(name):
    model = tiny.model(name)
    a, b = pictures(name)
    asked = [Prompt("two", TEXT, (a, b)), Prompt("one", "<image> this", a), Prompt("none", "this digit")]
    encoded = [model.encode(prompt) for prompt in asked]
    for batch in model.batches(encoded, 3):
        both = model(model.collate([encoded[i] for i in batch])).logits
        for row, i in enumerate(batch):
            alone = model(model.collate([encoded[i]])).logits[0]
            torch.testing.assert_close(both[row, : len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_roles_of_all_pictures_and_of_one():
    layout = tiny.model("chameleon").encode(Prompt("s", TEXT, tuple(pictures("chameleon")))).layout
    assert [span.block.tolist() for span in layout.spans] == [list(range(1, 19)), list(range(21, 39))]
    expected = {
        "boi": [1, 21],
        "eoi": [18, 38],
        "eoi-of-2": [38],
        "eoi-of-3": None,
        "first-image": [2, 22],
        "last-image-of-1": [17],
        "image-2": [3, 23],
        "image-2-of-2": [23],
        "image-17": None,
        "image-of-2": list(range(22, 38)),
        "image-mean": [*range(2, 18), *range(22, 38)],
        "prefix": list(range(38)),
        "suffix": [38, 39, 40],
        "text": [39, 40],
        "eol": None,
        "last": [40],
    }
    found = {role: positions(parse_role(role), layout, seed=0, sample_id="s") for role in expected}
    assert {role: None if at is None else at.tolist() for role, at in found.items()} == expected
    assert [own.tolist() for own in layout.by_picture(found["image-mean"])] == [
        list(range(2, 18)),
        list(range(22, 38)),
    ]
    drawn = {
        role: positions(parse_role(role), layout, seed=0, sample_id="s")
        for role in ("random-image-3", "random-image-3-of-1", "random-image-3-of-2")
    }
    assert layout.picture(drawn["random-image-3"]).tolist() == [1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(
        drawn["random-image-3"], np.concatenate([drawn["random-image-3-of-1"], drawn["random-image-3-of-2"]])
    )
    assert layout.grid is None
    assert [span.grid for span in layout.spans] == [(4, 4), (4, 4)]


def test_one_picture_is_what_it_was():
    model = tiny.model("pixtral")
    one = model.encode(Prompt("s", "<image> this", tiny.image())).layout
    for role in ("eoi", "image", "eol", "random-image-4", "image-3"):
        plain, chosen = (positions(parse_role(name), one, seed=0, sample_id="s") for name in (role, f"{role}-of-1"))
        np.testing.assert_array_equal(plain, chosen)
    assert one.grid == (4, 4)


def test_emu3_and_videos_are_refused():
    with pytest.raises(SampleError, match="2 images in the prompt: Emu3 is run with one"):
        tiny.model("emu3").encode(Prompt("s", TEXT, tuple(pictures("emu3"))))
    with pytest.raises(SampleError, match="<video> in the prompt: videos are not run; give its frames as images"):
        tiny.model("llava_onevision").encode(Prompt("s", "<video> this"))


def test_pictures_that_nothing_tells_apart_are_refused(monkeypatch):
    model = tiny.model("llava_gemma")
    monkeypatch.setattr(type(model.tokenizer), "is_fast", False)  # so it cannot say where its tokens are
    with pytest.raises(SampleError, match="2 images, and LlavaProcessor does not say which tokens are which image's"):
        model.encode(Prompt("s", "<image> <image> this", tuple(pictures("llava_gemma"))))


def letters(layout, span):
    """What each token of a picture is, one letter a token, and its grid."""
    found = np.array([kind[0] for kind in layout.modality(np.arange(layout.length))])
    found[span.eol] = "L"
    for letter, at in (("B", span.boi), ("E", span.eoi)):
        if at is not None:
            found[at] = letter
    return "".join(found[span.block]), span.grid


AROUND = {"aria": "<fim_prefix> <image> <fim_suffix>", "qwen2_vl": "<|vision_start|> <image> <|vision_end|>"}


# Nothing says how many tiles each of several pictures has, so that one tile's grid is not known to be one's.
TILED = {"aya_vision", "internvl_tiles", "ovis2"}
UNTOLD = {"idefics2", "idefics2_split"}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor
@pytest.mark.parametrize("name", sorted(pictured.KINDS.keys() - UNTOLD))
def test_each_of_several_is_what_it_is_alone(name):
    model, shown = pictured.KINDS[name](), AROUND.get(name, "<image>")
    a, b = tiny.image(0, (112, 56)), tiny.image(1, (56, 56))
    layout = model.encode(Prompt("s", f"this {shown} digit {shown} is a", (a, b))).layout
    alone = [model.encode(Prompt("s", f"this {shown} is a", one)).layout for one in (a, b)]
    found = [letters(layout, span) for span in layout.spans]
    expected = [letters(one, one.spans[0]) for one in alone]
    assert found == [(tokens, None if name in TILED else grid) for tokens, grid in expected]
    words = model.tokenizer.convert_tokens_to_ids(["this", "digit", "is", "a"])
    assert layout.token_ids[layout.text].tolist() == words[2:]
    assert [i for i in layout.token_ids[layout.text_before].tolist() if i in words] == words[:2]
    assert layout.n_pictures == 2


def test_what_begins_the_next_picture_ends_none():
    """A picture of one cell has no end in Granite-Docling; the token that begins the next stands there."""
    model = pictured.KINDS["granite_docling"]()
    one = tiny.image(0, (56, 56))
    layout = model.encode(Prompt("s", "this <image><image> is", (one, one))).layout
    assert [letters(layout, span)[0] for span in layout.spans] == ["Bsi", "Bsi"]


@pytest.mark.parametrize("name", sorted(UNTOLD))
def test_a_processor_that_does_not_say_whose_tokens_are(name):
    model = pictured.KINDS[name]()
    with pytest.raises(SampleError, match="2 images, and Idefics2Processor does not say which tokens are which"):
        model.encode(Prompt("s", "<image> this <image> is a", (tiny.image(0, (56, 56)), tiny.image(1, (56, 56)))))
