"""Emu3: line ends known by the size of the image, and images of two sizes kept apart."""

import numpy as np
import pytest
import torch

import tiny
from actstore_extract.families import Model
from actstore_extract.families.sample import Encoded, LayoutError, SampleError
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.roles import parse_role, positions

TEXT = "<image> this digit is a"


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.model("emu3")


@pytest.mark.parametrize("size", [(1, 3), (5, 1), (7, 3)])
def test_lines_are_never_taken_for_colours(model: Model, size: tuple[int, int]) -> None:
    with pytest.raises(SampleError, match=f"{size[0]} x {size[1]} pixels, whose lines Emu3 takes for colours"):
        encode(model, size=size)
    assert encode(model, size=(3, 2)).layout.grid is not None


def encode(model: Model, text: str = TEXT, size: tuple[int, int] = (8, 8)) -> Encoded:
    return model.encode(tiny.prompts([text], [size])[0])


def embeddings(model: Model, encoded: list[Encoded]) -> list[torch.Tensor]:
    """What block 0 receives of each sample, (length, d)."""
    everything = [Selection(np.arange(sample.length)) for sample in encoded]
    kept = capture(model, model.collate(encoded), everything, layers=[0]).residual[0]
    return list(kept.split([sample.length for sample in encoded]))


def embedded(model: Model, tokens: list[str]) -> torch.Tensor:
    return model.module.get_input_embeddings().weight[model.tokenizer.convert_tokens_to_ids(tokens)]


def codes(model: Model, encoded: Encoded) -> np.ndarray:
    """The VQ codes (rows, columns) of a sample's image, by the encoder itself."""
    inputs = encoded.inputs
    with torch.no_grad():
        found = model.module.model.vqmodel.encode(inputs["pixel_values"], inputs["image_sizes"])
    return found.image_tokens[0].squeeze().numpy()


@pytest.mark.parametrize(("size", "grid"), [((8, 8), (4, 4)), ((16, 8), (3, 6)), ((8, 16), (6, 3)), ((32, 8), (2, 8))])
def test_image_and_line_ends(model: Model, size: tuple[int, int], grid: tuple[int, int]) -> None:
    encoded = encode(model, size=size)
    layout, (x,) = encoded.layout, embeddings(model, [encoded])
    assert layout.grid == grid
    names = [f"<|visual token {code:06d}|>" for code in codes(model, encoded).flatten()]
    assert torch.equal(x[layout.image], embedded(model, names))
    assert torch.equal(x[layout.eol], embedded(model, ["<|extra_200|>"] * grid[0]))
    # the control: as many placeholders as image tokens, taken in a row, have line ends among them
    row = np.sort([*layout.image, *layout.eol])[: len(layout.image)]
    assert (x[row] == embedded(model, ["<|extra_200|>"])).all(-1).any()


def test_roles(model: Model) -> None:
    layout = encode(model).layout
    words = model.vocabulary()

    def at(role: str) -> list[int]:
        found = positions(parse_role(role), layout, seed=0, sample_id="s")
        assert found is not None
        return found.tolist()

    names = {role: [words[layout.token_ids[i]] for i in at(role)] for role in ("boi", "eoi", "at-frame-end", "last")}
    assert names == {
        "boi": ["<|image start|>"],
        "eoi": ["<|image end|>"],
        "at-frame-end": ["<|extra_201|>"],
        "last": ["a"],
    }
    assert [words[layout.token_ids[i]] for i in at("image-size")] == ["4", "*", "4", "<|image token|>"]
    assert (at("eol"), at("eol-mean")) == ([10, 15, 20, 25], [10, 15, 20, 25])
    assert at("all-image-mean") == list(range(1, 27))
    assert (at("first-image"), at("last-image"), at("image-5")) == ([6], [24], [11])  # 25 is a line end
    assert at("suffix") == [27, 28, 29, 30, 31]
    assert layout.modality(np.array([1, 2, 5, 6, 10, 26, 27])).tolist() == [
        "special", "special", "special", "image", "special", "special", "special",
    ]  # fmt: skip


def test_two_sizes_are_split(model: Model) -> None:
    encoded = [encode(model, size=size) for size in ((8, 8), (16, 8), (8, 8), (8, 16))]
    assert model.batches(encoded, 4) == [[0, 2], [1], [3]]
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        model.collate(encoded[:2])


def test_two_sizes_together_would_change_the_image(model: Model) -> None:
    """Why they are split: padded to the larger, as the processor pads them, the smaller image has other codes."""
    small, large = encode(model, size=(8, 8)), encode(model, size=(16, 8))
    pictures = [tiny.image(0, size) for size in ((8, 8), (16, 8))]
    inputs = model.processor(text=[TEXT, TEXT], images=pictures, padding=True, return_tensors="pt")
    seen = []
    handle = model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.module(**{k: v for k, v in inputs.items() if k != "mm_token_type_ids"})
    handle.remove()
    mask = inputs["attention_mask"].bool()
    together = [x[kept] for x, kept in zip(seen[0], mask, strict=True)]
    alone = [embeddings(model, [sample])[0] for sample in (small, large)]
    at = small.layout.image
    assert (together[0][at] != alone[0][at]).any(-1).float().mean() > 0.1
    rest = np.setdiff1d(np.arange(small.length), at)
    assert torch.equal(together[0][rest], alone[0][rest])


def test_dropout_is_off() -> None:
    module, processor = tiny.emu3()
    model = Model(module.train(), processor)
    encoded = encode(model)

    def last() -> torch.Tensor:
        return capture(model, model.collate([encoded]), [Selection(np.arange(encoded.length))], layers=[4]).residual

    assert torch.equal(last(), last())
    module.train()  # the control
    assert not torch.equal(last(), last())


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (slice(None, 26), "no end of frame and image after the image: the prompt was cut"),
        (slice(None, 27), "no end of frame and image after the image: the prompt was cut"),
        (slice(2, None), "no image start and size in front of the image: the prompt was cut"),
        (slice(6, None), "no image start and size in front of the image: the prompt was cut"),
        (slice(None, 25), "19 image tokens instead of 4 lines of 4 with their ends: the prompt was cut"),
        (slice(28, None), "no image token is left"),
    ],
)
def test_cut_prompts(model: Model, cut: slice, reason: str) -> None:
    encoded = encode(model)
    model.kind.layout(model, encoded.layout.token_ids, encoded.inputs)
    with pytest.raises(LayoutError, match=reason):
        model.kind.layout(model, encoded.layout.token_ids[cut], encoded.inputs)
