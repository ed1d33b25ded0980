"""Where an image is among the tokens, for processors of many kinds: every token of a sample, written out."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.utils import is_torchvision_available

import pictured
import tiny
from actstore_extract.families import Model, Prompt, SampleError, families
from actstore_extract.families.grid import lines_seen
from actstore_extract.families.sample import LayoutError
from actstore_extract.families.spans import told

NEEDS_TORCHVISION = pytest.mark.skipif(not is_torchvision_available(), reason="its processor needs torchvision")
WIDE = (112, 56)

# What each token of "this <image> digit is a" is: image, text, begin, end, line's end, other machinery; and the grid.
# A chat template writes what wraps the image, where the processor does not: "this VISION_START <image> VISION_END ...".
WRITTEN = {
    "aria": ("- this <fim_prefix> 4 <fim_suffix> digit is a", ".tBiiiiEttt", None),
    "aya_vision": ("START TILE_1 TILE_2 TILE_GLOBAL END", ".tB.iiii.iiii.iiiiEttt", None),
    "gemma3": ("begin and end", ".tBiiiiEttt", (2, 2)),
    "granite_docling": ("two cells, two ends each, and all", ".tB.i..i..iEttt", None),
    "idefics2": ("one picture, resampled to 4 queries", ".tBiiiiEttt", None),
    "idefics2_split": ("one separator between 5 tiles", ".tBiiii.iiii.iiii.iiii.iiiiEttt", None),
    "idefics3": ("all of one tile", ".tB.iiiiEttt", (2, 2)),
    "idefics3_split": ("two cells and all", ".tB.iiii..iiii..iiiiEttt", None),
    "internvl": ("one tile", ".tBiiiiEttt", (2, 2)),
    "internvl_tiles": ("two tiles and all: 12 tokens in one", ".tBiiiiiiiiiiiiEttt", None),
    "mistral3": ("two lines of four", ".tiiiiLiiiiEttt", (2, 4)),
    "ovis2": ("all, then two tiles", ".tBiiii.iiii.iiiiEttt", None),
    "paligemma": ("its <s> stands behind the image", "tiiiiiiiiiiiiiiii.ttt", (4, 4)),
    "qwen2_vl": ("patches 4 x 8, merged 2 x 2", ".tBiiiiiiiiEttt", (2, 4)),
    "lfm2_vl": ("one tile of 2 x 4, by its shape alone", "tBiiiiiiiiEttt", None),
    "llama4": ("two tiles and all", ".tBiiii.iiii..iiiiEttt", None),
    "minicpm": ("its number, begin and end", ".t...BiEttt", None),
    "minicpm_slices": ("its number, all, two slices", ".t...Bi..i..iEttt", None),
    "molmo2": ("two views with ends of lines", "..tBii.ii...iiii.iiii.Ettt", None),
}
AROUND = {
    "aria": "this <fim_prefix> <image> <fim_suffix> digit is a",
    "qwen2_vl": "this <|vision_start|> <image> <|vision_end|> digit is a",
}


def tags(model: Model, text: str, size: tuple[int, int] = WIDE) -> tuple[str, tuple[int, int] | None]:
    """One letter a token, as above, and the grid."""
    layout = model.encode(Prompt("s", text, tiny.image(0, size))).layout
    found = np.array(["." if kind == "special" else kind[0] for kind in layout.modality(np.arange(layout.length))])
    found[layout.eol] = "L"
    for letter, at in (("B", layout.boi), ("E", layout.eoi)):
        if at is not None:
            found[at] = letter
    (span,) = layout.spans
    wrapping = {at for at in (layout.boi, layout.eoi) if at is not None}
    inside = span.block[: None if layout.eoi is None else layout.eoi - span.block[0]]
    assert set(layout.machinery) == {*inside} - {*layout.image} - {*layout.eol} - wrapping
    assert set(found[span.block]) <= set(".iBEL")
    assert np.array_equal(np.diff(span.block), np.ones(len(span.block) - 1))
    assert set(np.flatnonzero(layout.token_ids == model.image_token_id)) == {*layout.image}
    return "".join(found), layout.grid


NAMES = [
    *pictured.KINDS,
    *(pytest.param(name, marks=NEEDS_TORCHVISION) for name in pictured.TORCHVISION),
]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # PaliGemma's processor
@pytest.mark.parametrize("name", NAMES)
def test_every_token_is_what_it_is(name: str) -> None:
    model = {**pictured.KINDS, **pictured.TORCHVISION}[name]()
    _, *expected = WRITTEN[name]
    assert [*tags(model, AROUND.get(name, "this <image> digit is a"))] == expected


@NEEDS_TORCHVISION
def test_what_begins_an_image_is_outermost() -> None:
    """Llama 4 declares its marker, too, which stands between the begin of an image and its overview."""
    assert tags(pictured.llama4(), "this <image> digit is a", (56, 56)) == (".tB.iiiiEttt", (2, 2))


@pytest.mark.parametrize(
    ("size", "grid"), [((112, 112), (4, 4)), ((224, 56), (2, 8)), ((56, 224), (8, 2)), ((56, 56), (2, 2))]
)
def test_a_square_number_of_patches_is_no_square(size: tuple[int, int], grid: tuple[int, int]) -> None:
    """2 x 8, 8 x 2 and 4 x 4 image tokens are 16."""
    letters, found = tags(pictured.qwen2_vl(), "<image> a", size)
    assert (letters.count("i"), found) == (grid[0] * grid[1], grid)


def test_four_tiles_are_no_square() -> None:
    """4 x 4 tokens of 3 tiles and an overview of all, 2 x 2 each, have no grid of 4 x 4."""
    assert tags(pictured.internvl(max_patches=3), "<image> a", (168, 56)) == (".B" + "i" * 16 + "Et", None)


def test_what_the_processor_puts_in_that_is_text_is_machinery() -> None:
    """Gemma 3 looks at a wide picture in pieces, and says so in English between them."""
    model = pictured.gemma3()
    model.processor.images_kwargs = {
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 20,
        "pan_and_scan_max_num_crops": 2,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    letters, grid = tags(model, "this <image> digit is a")
    n_words = "Here is the original image and here are some crops to help you see better".count(" ") + 1
    assert letters.count("t") == len(["this", "digit", "is", "a"])
    assert letters.count(".") >= n_words
    assert (letters.count("i"), letters[-4:], grid) == (12, "Ettt", None)


def test_a_token_that_is_partly_the_users_is_text() -> None:
    """What reaches beyond the characters that the processor put in: of placeholders alone it is white space."""
    offsets = torch.tensor([[(0, 0), (0, 2), (2, 4), (4, 7), (7, 9), (9, 12)]])
    inputs = {
        "offset_mapping": offsets,
        "text_replacement_offsets": [[{"type": "image", "new_span": (2, 6), "text": "I", "replacement": "PPPP"}]],
    }
    words = pictured.qwen2_vl().tokenizer
    assert [x.tolist() for x in told(words, inputs, "ab I cd ef", np.array([2, 3]))] == [[2, 3]]
    assert [x.tolist() for x in told(words, inputs, "ab I cd ef", np.array([2]))] == [[2]]
    assert told(words, inputs, "ab I cd ef", np.array([2, 5])) is None  # a placeholder elsewhere
    assert told(words, {**inputs, "offset_mapping": None}, "ab I cd ef", np.array([2])) is None


def test_the_end_of_a_prompt_that_was_cut() -> None:
    """Truncation leaves the image whole, and no text would have been missed."""
    model = pictured.internvl(max_patches=1)
    model.processor.text_kwargs = {"truncation": True, "max_length": 9}
    with pytest.raises(SampleError, match=r"s: its tokens end at .*: the prompt was cut"):
        tags(model, "this <image> digit is a")
    model.processor.text_kwargs = {"truncation": True, "max_length": 11}
    assert tags(model, "this <image> digit is a")[0] == ".tBiiiiEttt"


def test_line_ends_are_seen() -> None:
    """A token of its own at equal distances between the image tokens of one picture ends a line."""
    i, end, other = 4, 24, 25
    one, two = {"pixel_values": torch.zeros(1, 3, 8, 8)}, {"pixel_values": torch.zeros(3, 3, 8, 8)}

    def seen(ids: list[int], inputs: dict[str, torch.Tensor], n_block: int = 8) -> tuple[list[int], object]:
        token_ids, block = np.array([1, *ids, 9]), np.arange(1, 1 + n_block)
        found = lines_seen(token_ids, np.flatnonzero(token_ids == i), block, inputs, resampled=False)
        return found.eol.tolist(), found.grid

    ids = [i, i, end, i, i, end, i, i]
    assert seen(ids, one) == ([3, 6], (3, 2))
    assert seen([*ids, end], one, 9) == ([3, 6, 9], (3, 2))
    assert seen([*ids, end], one) == ([3, 6], (3, 2))  # what follows is not the image's
    assert seen(ids, two) == ([], None)
    assert seen(ids, {}) == ([], None)
    assert seen([i, i, end, i, i, other, i, i], one) == ([], None)
    assert seen([i, i, end, i, i, end, i], one, 7) == ([], None)


def test_a_processor_that_puts_no_image_in() -> None:
    """Or that has another token for it than the model."""
    model = pictured.gemma3()
    model.module.config.image_token_id = 599
    with pytest.raises(SampleError, match="no image token is left: Gemma3Processor put none in"):
        Model(model.module, model.processor).encode(Prompt("s", "<image> a", Image.new("RGB", (56, 56))))


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        (
            "internvl",
            {"pixel_values": None},
            "InternVLProcessor left the image out: it gives input_ids, attention",
        ),
        (
            "qwen2_vl",
            {"image_grid_thw": [[1, 2, 4]]},
            "Qwen2VLProcessor gives image_grid_thw as a list, which no",
        ),
        ("idefics3", {"attention_mask": torch.tensor([[1, 0]])}, "Idefics3Processor pads a single sample"),
    ],
)
def test_a_processor_that_gives_something_else(
    name: str, changed: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It drops the image, keeps back what is no tensor, or pads."""
    model = pictured.KINDS[name]()
    right = type(model.kind).process
    monkeypatch.setattr(
        type(model.kind),
        "process",
        lambda *given: BatchFeature({**right(*given), **changed}, skip_tensor_conversion=[]),
    )
    with pytest.raises(SampleError, match=f"^s: {reason}"):
        model.encode(Prompt("s", "<image> a", tiny.image(0, WIDE)))


def test_today_s_rule_where_a_processor_cannot_say() -> None:
    """From the first placeholder to the last, and what is declared beside them."""
    model = pictured.idefics3()
    ids = model.encode(Prompt("s", "this <image> digit is a", tiny.image(0, WIDE))).layout.token_ids
    generic = families()["generic"]
    layout = generic.layout(model, ids, {})
    told_by_processor = model.encode(Prompt("s", "this <image> digit is a", tiny.image(0, WIDE))).layout
    assert layout.image.tolist() == told_by_processor.image.tolist()
    assert (layout.eoi, layout.text.tolist()) == (told_by_processor.eoi, told_by_processor.text.tolist())
    with pytest.raises(LayoutError, match="no image token is left"):
        generic.layout(model, ids[ids != model.image_token_id], {})
