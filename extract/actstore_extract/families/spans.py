"""Where images are among the tokens: by what the processor says that it put into the text, and by what is declared."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from actstore_extract.families.sample import LayoutError
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Positions

__all__ = ["ASKED", "OFFSETS", "added", "declared", "told"]

# What a processor is asked to say besides its tensors; one that cannot leaves it out.
OFFSETS = {"return_offsets_mapping": True}  # which a tokenizer alone knows
ASKED = {"return_text_replacement_offsets": True, **OFFSETS}

# Attributes by which configurations, processors and tokenizers declare what begins and ends an image: ids and tokens.
_BEGIN = (
    "boi_token",
    "boi_token_id",
    "boi_token_index",
    "fake_image_token",
    "im_start_id",
    "im_start_token_id",
    "image_bos_token_id",
    "image_start_id",
    "image_start_token",
    "image_start_token_id",
    "img_start_token",
    "start_image_token",
    "start_image_token_id",
    "start_of_img_token",
    "vision_bos_token",
    "vision_bos_token_id",
    "vision_start_token",
    "vision_start_token_id",
)
_END = (
    "end_image_token",
    "end_image_token_id",
    "end_of_img_token",
    "eoi_token",
    "eoi_token_id",
    "eoi_token_index",
    "fake_image_token",
    "im_end_id",
    "im_end_token_id",
    "image_end_id",
    "image_end_token",
    "image_end_token_id",
    "img_end_token",
    "vision_end_token",
    "vision_end_token_id",
    "vision_eos_token",
    "vision_eos_token_id",
)


def declared(model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
    """Ids of the tokens that configuration, processor or tokenizer declare to begin and to end an image."""
    return _named(model, _BEGIN), _named(model, _END)


def _named(model: Wrapped, names: Sequence[str]) -> frozenset[int]:
    places = (model.module.config, model.processor, model.tokenizer)
    values = {getattr(place, name, None) for place in places for name in names}
    ids = {value if isinstance(value, int) else _id(model, value) for value in values if value is not None}
    return frozenset(i for i in ids if i is not None and i != model.image_token_id)


def _id(model: Wrapped, token: object) -> int | None:
    """The id of a token, given as text or with its options; None for one that the tokenizer does not have."""
    found = model.tokenizer.convert_tokens_to_ids(str(token))
    return None if found == model.tokenizer.unk_token_id else cast(int | None, found)


def added(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids of the tokens that are no text: those added to the vocabulary, but for white space."""
    return frozenset(i for token, i in tokenizer.get_added_vocab().items() if token.strip())


def told(
    words: PreTrainedTokenizerBase, inputs: Mapping[str, Any], text: str, placeholders: Positions
) -> list[Positions] | None:
    """The tokens of each image of one sample, as the processor says itself: those of the text that it put in for the
    image's marker in `text`. None where it does not say, or puts placeholders elsewhere as well.

    LayoutError where the tokens end before that text does.
    """
    replaced, offsets = inputs.get("text_replacement_offsets"), inputs.get("offset_mapping")
    if not replaced or not isinstance(offsets, torch.Tensor):
        return None
    images = [one for one in replaced[0] if one["type"] == "image"]
    starts, stops = offsets[0].numpy().T
    is_placeholder = np.zeros(len(starts), bool)
    is_placeholder[placeholders] = True
    found = [_inside(one["new_span"], starts, stops, is_placeholder) for one in images]
    if not images or not all(len(block) and (np.diff(block) == 1).all() for block in found):
        return None
    if not np.isin(placeholders, np.concatenate(found)).all():
        return None
    _check_whole(words, images, text, int(stops.max()))
    return found


def _inside(
    span: tuple[int, int], starts: NDArray[np.int64], stops: NDArray[np.int64], is_placeholder: NDArray[np.bool_]
) -> Positions:
    """Tokens within the characters start..stop: a placeholder may have taken white space around it along, any other
    token that reaches beyond them is partly the user's, and text."""
    start, stop = span
    whole = (starts >= start) & (stops <= stop) & (starts < stops)
    return np.flatnonzero(whole | (is_placeholder & (starts < stop) & (stops > start)))


def _check_whole(words: PreTrainedTokenizerBase, images: Sequence[Mapping[str, Any]], text: str, end: int) -> None:
    """LayoutError unless the last token, which ends at character `end`, ends no sooner than the text does."""
    last = images[-1]
    behind = text.rpartition(last["text"])[2].rstrip()
    replaced: str = last["replacement"]
    start, stop = last["new_span"]
    stop = stop if behind else start + len(replaced.rstrip())
    if end >= stop + len(behind):
        return
    own = words(behind, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    stop += max((one[1] for one in own), default=0)  # a tokenizer may leave out what it does not know
    if end < stop:
        raise LayoutError(f"its tokens end at character {end} of a text of {stop}: the prompt was cut")
