"""LLaVA-OneVision: the grid of any resolution, and an end of image only where a prompt has one."""

import numpy as np
import pytest
import torch

import tiny
from actstore_extract.families import Model
from actstore_extract.families.sample import Encoded, LayoutError
from actstore_extract.forward.capture import Selection, capture

WRAPPED = "<|im_start|><image><|im_end|> this digit is a"


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model("llava_onevision")


def encode(model: Model, text: str = WRAPPED, size: tuple[int, int] = (8, 8)) -> Encoded:
    return model.encode(tiny.prompts([text], [size])[0])


def embeddings(model: Model, encoded: Encoded) -> torch.Tensor:
    """What block 0 receives, (length, d)."""
    everything = [Selection(np.arange(encoded.length))]
    return capture(model, model.collate([encoded]), everything, layers=[0]).residual[0]


def sizes() -> list[tuple[int, int]]:
    drawn = np.random.default_rng(0).integers(2, 40, (40, 2))
    return [(8, 8), (16, 16), (32, 32), (4, 16), (16, 4), (64, 3), *(tuple(size) for size in drawn.tolist())]


def test_line_ends_of_any_size(model: Model) -> None:
    """The newline vector stands at the line ends and nowhere else, in all of 46 sizes."""
    newline, grids = model.module.model.image_newline, set()
    for size in sizes():
        encoded = encode(model, size=size)
        layout, x = encoded.layout, embeddings(model, encoded)
        assert layout.grid is not None
        rows, columns = layout.grid
        assert len(layout.image) == 4 + rows * columns
        assert np.flatnonzero((x == newline).all(-1)).tolist() == layout.eol.tolist()
        assert len(layout.eol) == rows
        assert (layout.token_ids == model.image_token_id).sum() == rows * (columns + 1) + 4
        grids.add(layout.grid)
    assert len(grids) > 10
    assert (6, 6) in grids  # of 8 x 8, shrunk because nine tiles are the most


def test_overview_first(model: Model) -> None:
    layout = encode(model).layout
    assert layout.image.tolist() == [1, 2, 3, 4, *range(5, 9), *range(10, 14), *range(15, 19), *range(20, 24)]
    assert layout.eol.tolist() == [9, 14, 19, 24]
    assert layout.grid == (4, 4)


@pytest.mark.parametrize(
    ("text", "boi", "eoi", "words"),
    [
        (WRAPPED, 0, 25, "this digit is a"),
        ("this is a <|im_start|><image><|im_end|>", 3, 28, "this is a"),
        ("<image> this digit", None, None, "this digit"),
        ("this <image>", None, None, "this"),
        ("<|im_start|> this <image> is <|im_end|>", None, None, "is <|im_end|>"),
        ("<|im_start|> this <image><|im_end|>", None, None, "<|im_start|> this"),  # the end of a turn, not of the image
        ("<|im_start|><image> this <|im_end|>", None, None, "this <|im_end|>"),
    ],
)
def test_end_of_image_only_in_the_wrapped_form(
    model: Model, text: str, boi: int | None, eoi: int | None, words: str
) -> None:
    layout = encode(model, text).layout
    assert (layout.boi, layout.eoi) == (boi, eoi)
    assert " ".join(model.vocabulary()[i] for i in layout.token_ids[layout.text]) == words


def test_grid_arithmetic_is_checked(model: Model) -> None:
    encoded = encode(model)
    ids = encoded.layout.token_ids
    model.kind.layout(model, ids, encoded.inputs)
    with pytest.raises(
        LayoutError, match="19 image tokens instead of 4 lines of 4 with their ends: the prompt was cut"
    ):
        model.kind.layout(model, np.delete(ids, 7), encoded.inputs)
    with pytest.raises(LayoutError, match="20 image tokens instead of 2 lines of 4"):
        model.kind.layout(model, ids, {"image_sizes": torch.tensor([[4, 8]])})
    with pytest.raises(LayoutError, match="20 image tokens instead of 4 lines of 4"):  # a gap
        model.kind.layout(model, np.insert(ids, 12, ids[-1]), encoded.inputs)


def test_the_filling_is_not_looked_at(model: Model) -> None:
    encoded = [encode(model, size=size) for size in ((8, 8), (4, 4))]
    batch = model.collate(encoded)
    assert [x.shape[1] for x in (s.inputs["pixel_values"] for s in encoded)] == [5, 2]
    assert batch.inputs["pixel_values"].shape[:2] == (2, 5)
    with torch.no_grad():
        before = model(batch).logits
        batch.inputs["pixel_values"][1, 2:] = 1e3
        assert torch.equal(model(batch).logits, before)
        batch.inputs["pixel_values"][1, 1:] = 1e3  # the control: a tile of the image
        assert not torch.equal(model(batch).logits, before)
