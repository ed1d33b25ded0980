"""Vectors that carry the image token's id and are no image tokens: newlines, begin and end, separators of views."""

import numpy as np
import pytest
import torch
from transformers.utils import is_torchvision_available

import pictured
import tiny
from actstore_extract.families import LoadError, Model, Prompt, SampleError
from actstore_extract.families.learned import queries, separators

AROUND = {"hunyuan_vl": "this <|start|><image><|end|> digit is a"}


def received(model: Model, text: str, seed: int) -> tuple[torch.Tensor, object]:
    """What block 0 receives of a prompt with a picture, (length, d), and the layout."""
    encoded = model.encode(Prompt("s", text, tiny.image(seed, (112, 56))))
    seen = []
    handle = model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(model.collate([encoded]))
    handle.remove()
    return seen[0][0], encoded.layout


@pytest.mark.parametrize(
    ("name", "letters", "grid"),
    [
        pytest.param(
            "unlimited_ocr",
            ".t" + "iiiiL" * 4 + ".ttt",
            (4, 4),
            marks=pytest.mark.skipif(not is_torchvision_available(), reason="its processor needs torchvision"),
        ),
        ("llava_next", ".t" + "i" * 16 + "iiiiiiiiL" * 4 + "ttt", (4, 8)),
        ("deepseek_ocr2", ".t" + "i" * 144 + ".ttt", None),
        ("granite4_vision", ".t" + "i" * 4 + "iiiiL" * 2 + "ttt", (2, 4)),
        ("hunyuan_vl", "tB." + "iiiiL" * 2 + ".Ettt", (2, 4)),
    ],
)
def test_what_is_the_same_for_every_picture_is_no_image_token(
    name: str, letters: str, grid: tuple[int, int] | None
) -> None:
    """At layer 0, where nothing has been mixed yet: two pictures differ at every image token, and nowhere else."""
    model = getattr(pictured, name)()
    for weight in model.module.parameters():  # some are not initialised by the class itself
        torch.nn.init.normal_(weight, std=0.2) if weight.ndim == 1 or not weight.any() else None
    text = AROUND.get(name, "this <image> digit is a")
    (x, layout), (y, _) = (received(model, text, seed) for seed in (0, 1))
    differs = (x != y).any(-1).numpy()
    assert np.flatnonzero(differs).tolist() == layout.image.tolist()
    placeholders = layout.token_ids == model.image_token_id
    assert set(layout.eol) <= set(np.flatnonzero(placeholders & ~differs))
    assert len(torch.unique(x[layout.eol], dim=0)) == (1 if len(layout.eol) else 0)
    found = np.where(layout.modality(np.arange(layout.length)) == "special", ".", "t").astype(object)
    found[layout.image], found[layout.eol] = "i", "L"
    for letter, at in (("B", layout.boi), ("E", layout.eoi)):
        if at is not None:
            found[at] = letter
    assert ("".join(found), layout.grid) == (letters, grid)
    assert layout.image[-1] != np.flatnonzero(placeholders)[-1]


def test_a_model_with_such_vectors_needs_a_family_that_knows_them() -> None:
    model = pictured.llava_next()
    assert separators(model.module, model.layers, model.d_model) == {"image_newline"}
    with pytest.raises(LoadError, match="LlavaNextForConditionalGeneration has image_newline, vectors that have the"):
        Model(model.module, model.processor, family="generic")


def test_other_vectors_are_none() -> None:
    """Norms, scales, gates, the class token of a tower as wide as the decoder; the decoder's own."""
    model = pictured.gemma3()
    for name in ("class_embedding", "lambda_1", "layer_scale", "gate_attn"):
        model.module.register_parameter(name, torch.nn.Parameter(torch.zeros(model.d_model, device="meta")))
    assert not separators(model.module, model.layers, model.d_model)
    model.module.register_parameter("tile_break", torch.nn.Parameter(torch.zeros(model.d_model, device="meta")))
    assert separators(model.module, model.layers, model.d_model) == {"tile_break"}


def test_queries_are_known_by_their_parameter() -> None:
    found = {name: queries(pictured.KINDS[name]().module) for name in ("aria", "gemma3", "idefics2", "idefics3")}
    assert found == {"aria": True, "gemma3": False, "idefics2": True, "idefics3": False}


def test_a_word_that_points_to_an_image_is_none() -> None:
    """Mllama's text attends to the picture, which is no token: it has no roles, text has its own."""
    model = pictured.mllama()
    layout = model.encode(Prompt("s", "this <image> digit is a", tiny.image(0, (56, 56)))).layout
    words = [model.vocabulary()[i] for i in layout.token_ids[layout.text]]
    assert (layout.image.tolist(), layout.eoi, layout.grid, words) == ([], None, None, ["digit", "is", "a"])
    assert layout.modality(np.flatnonzero(layout.token_ids == model.image_token_id)).tolist() == ["special"]
    assert model.notes() == [
        "MllamaForConditionalGeneration: its image is no token, and has no roles; the text attends to it in blocks 1"
    ]


def test_images_that_the_processor_puts_in_front_itself() -> None:
    model = pictured.blip2()
    layout = model.encode(Prompt("s", "<image> digit is a", tiny.image(0, (56, 56)))).layout
    words = [model.vocabulary()[i] for i in layout.token_ids[layout.text]]
    assert (layout.image.tolist(), layout.grid, words) == (list(range(8)), None, ["digit", "is", "a"])
    with pytest.raises(SampleError, match="the image of blip2 models is in front: begin the prompt with <image>"):
        model.encode(Prompt("s", "this <image> digit", tiny.image(0, (56, 56))))


def test_a_processor_that_ends_what_is_no_chat_with_the_separator_of_chats_is_refused(monkeypatch):
    model = tiny.model("chameleon")
    assert model.encode(Prompt("s", "its own <reserved08706>")).layout.length == 4
    monkeypatch.setattr(type(model.kind), "process_options", {})
    with pytest.raises(SampleError, match="puts <reserved08706> behind the text, as Transformers before 5.23 does"):
        model.encode(Prompt("s", "this digit is a"))
