"""Whether image tokens are what a picture becomes, and text is not: two pictures, the same words."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image, fromarray

from actstore_extract.check.errors import CheckError
from actstore_extract.check.view import view
from actstore_extract.families import Encoded, Model, Prompt, SampleError

__all__ = ["check_pictures", "of_noise"]


def check_pictures(model: Model, prompt: Prompt, encoded: Encoded) -> str | None:
    """Raise CheckError unless what enters block 0 at `image` is of the picture, and at `text` it is not; why this
    cannot be seen of the sample, if so.

    The other picture, of several each, is noise of the same size. Images that are tokens of the vocabulary may share
    some.
    """
    try:
        other = model.encode(of_noise(prompt))
    except SampleError as error:
        return f"a picture of noise cannot be run: {error.reason}"
    layout = encoded.layout
    if not np.array_equal(layout.image, other.layout.image):
        return f"a picture of noise is {len(other.layout.image)} tokens, and this one {len(layout.image)}"
    batches = [model.collate([one]) for one in (encoded, other)]
    mine, its = (view(model, one, layers=[0], at=np.arange(encoded.length)).points[0] for one in batches)
    same = (mine == its).all(-1).numpy()
    fixed = [int(at) for at in layout.image[same[layout.image]] if not _is_word(model, mine[at])]
    if fixed:
        what = (
            "so no vector of the image is there: its picture comes in by another way, such as cross-attention"
            if len(fixed) == len(layout.image)
            else "so they separate the patches or wrap them, and are none"
        )
        raise CheckError(
            f"{len(fixed)} of {len(layout.image)} `image` vectors that enter block 0 are the same for two "
            f"pictures (positions {_listed(fixed)}), {what}; this architecture needs a family of its own"
        )
    text = np.union1d(layout.text, layout.text_before)
    moved = text[~same[text]].tolist()
    if moved:
        raise CheckError(
            f"{len(moved)} of {len(text)} `text` vectors that enter block 0 change with the picture, at "
            f"positions {_listed(moved)}: they are the image's; this architecture needs a family of its own"
        )
    return None


def of_noise(prompt: Prompt) -> Prompt:
    """The same prompt with other pictures of the same sizes."""
    return prompt._replace(image=tuple(map(_noise, prompt.images)))


def _noise(image: Image) -> Image:
    """A picture of the same size, and of nothing."""
    return fromarray(np.random.default_rng(2**32).integers(0, 256, (image.height, image.width, 3), np.uint8))


def _is_word(model: Model, vector: torch.Tensor) -> bool:
    """Whether a vector (d,) is a word of the vocabulary, as the images of some models are, but not the placeholder."""
    table = model.module.get_input_embeddings().weight.detach()
    (found,) = (table == vector.to(table.device, table.dtype)).all(-1).nonzero(as_tuple=True)
    return bool(found.numel()) and model.image_token_id not in found.tolist()


def _listed(at: Sequence[int]) -> str:
    """Some positions, in words.

    >>> _listed(range(7))
    '0, 1, 2, 3, ...'
    """
    return ", ".join(map(str, at[:4])) + (", ..." if len(at) > 4 else "")
