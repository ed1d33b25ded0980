"""Pixtral: lines end in a token of their own, images of any size, known by its vision model."""

import numpy as np
import pytest
import torch

import tiny
from actstore_extract.families import Model
from actstore_extract.families.sample import Encoded, LayoutError
from actstore_extract.forward.capture import Selection, capture

TEXT = "<image> this digit is a"


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model("pixtral")


def encode(model: Model, text: str = TEXT, size: tuple[int, int] = (8, 8)) -> Encoded:
    return model.encode(tiny.prompts([text], [size])[0])


def embeddings(model: Model, encoded: Encoded) -> torch.Tensor:
    """What block 0 receives, (length, d)."""
    everything = [Selection(np.arange(encoded.length))]
    return capture(model, model.collate([encoded]), everything, layers=[0]).residual[0]


def test_known_by_its_vision_model() -> None:
    """Both are LlavaForConditionalGeneration."""
    assert tiny.model("pixtral").family == "pixtral"
    assert tiny.model("llava_gemma").family == "generic"


@pytest.mark.parametrize(
    ("size", "grid"),
    [((8, 8), (4, 4)), ((16, 8), (4, 8)), ((5, 9), (5, 3)), ((16, 2), (1, 8)), ((8, 2), (1, 4)), ((40, 20), (4, 8))],
)
def test_lines(model: Model, size: tuple[int, int], grid: tuple[int, int]) -> None:
    encoded = encode(model, size=size)
    layout, x = encoded.layout, embeddings(model, encoded)
    rows, columns = layout.grid or (0, 0)
    assert (rows, columns) == grid
    table = dict(zip(("[IMG_BREAK]", "[IMG_END]"), model.module.get_input_embeddings().weight[5:7], strict=True))
    assert model.tokenizer.convert_tokens_to_ids(list(table)) == [5, 6]
    assert layout.eol.tolist() == [columns + 1 + i * (columns + 1) for i in range(rows - 1)]
    assert (x[layout.eol] == table["[IMG_BREAK]"]).all()
    assert layout.eoi == 1 + rows * (columns + 1) - 1
    assert torch.equal(x[layout.eoi], table["[IMG_END]"])
    inputs = {name: encoded.inputs[name] for name in ("pixel_values", "image_sizes")}
    with torch.no_grad():
        (features,) = model.module.model.get_image_features(**inputs, return_dict=True).pooler_output
    assert torch.equal(x[layout.image], features)
    assert layout.boi is None
    assert layout.text.tolist() == [layout.eoi + i for i in (1, 2, 3, 4)]


def test_generic_finds_the_same_lines() -> None:
    """Because they show in the tokens; but a single line has no line ends, and then its grid is unknown."""
    module, processor = tiny.pixtral()
    own, generic = Model(module, processor), Model(module, processor, family="generic")
    a, b = (encode(model, size=(16, 8)).layout for model in (own, generic))
    assert (a.eol.tolist(), a.eoi, a.grid) == (b.eol.tolist(), b.eoi, b.grid)
    a, b = (encode(model, size=(8, 2)).layout for model in (own, generic))
    assert (a.grid, b.grid) == ((1, 4), None)


def test_the_filling_is_not_looked_at(model: Model) -> None:
    encoded = [encode(model, size=size) for size in ((8, 16), (16, 8))]
    assert model.batches(encoded, 2) == [[1, 0]]
    batch = model.collate(encoded)
    assert batch.inputs["pixel_values"].shape == (2, 3, 16, 16)
    with torch.no_grad():
        before = model(batch).logits
        batch.inputs["pixel_values"][0, :, :, 8:] = 1e3
        batch.inputs["pixel_values"][1, :, 8:] = 1e3
        assert torch.equal(model(batch).logits, before)
        batch.inputs["pixel_values"][1, :, 7:] = 1e3  # the control: a line of the image
        assert not torch.equal(model(batch).logits, before)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda ids: ids[:20], "19 image tokens instead of 4 lines of 4 with their ends: the prompt was cut"),
        (lambda ids: ids[:19], "18 image tokens instead of 4 lines of 4"),
        (lambda ids: np.delete(ids, 5), "19 image tokens instead of 4 lines of 4"),
        (lambda ids: np.where(ids == 5, 6, ids), r"the lines of the image are not 4 image tokens and \[IMG_BREAK\]"),
        (lambda ids: np.where(ids == 6, 7, ids), r"no \[IMG_END\] after the image: the prompt was cut"),
        (lambda ids: ids[21:], "no image token is left"),
    ],
)
def test_other_tokens_than_expected(model: Model, change, reason: str) -> None:
    encoded = encode(model)
    model.kind.layout(model, encoded.layout.token_ids, encoded.inputs)
    with pytest.raises(LayoutError, match=reason):
        model.kind.layout(model, change(encoded.layout.token_ids), encoded.inputs)
