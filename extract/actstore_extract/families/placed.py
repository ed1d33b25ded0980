"""Where words of a prompt are: among the characters of what a chat template writes, and among its tokens."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unicodedata import combining, normalize

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from actstore_extract.families.sample import MARKER, Spans
from actstore_extract.roles import Positions

__all__ = ["among_tokens", "in_chat", "remarked"]


def remarked(words: Mapping[str, Spans], text: str, old: str, new: str) -> dict[str, Spans]:
    """The places of words in `text` once each `old` marker in it is a `new` one."""

    def moved(at: int) -> int:
        return at + text.count(old, 0, at) * (len(new) - len(old))

    return {name: tuple((moved(start), moved(stop)) for start, stop in spans) for name, spans in words.items()}


def in_chat(words: Mapping[str, Spans], said: str, whole: str, after: str) -> dict[str, Spans]:
    """The places of words in `whole`, which a template made of what is `said` last, by those in `said`.

    `after` is what the template writes behind it. A template strips white space and may put images first: each text
    between images is looked for by itself, from the end. None where it is not found.
    """
    found: list[tuple[int, int, int]] = []  # of each piece: where it begins and ends in what is said, and its way
    end = len(whole.removesuffix(after).rstrip()) if whole.endswith(after) else 0
    stop = len(said)
    for piece in reversed(said.split(MARKER)):
        text, start = piece.strip(), stop - len(piece.lstrip())
        at = whole.rfind(text, 0, end) if text else -1
        if at >= 0 and (found or at + len(text) == end):
            found.append((start, start + len(text), at - start))
            end = at
        stop -= len(piece) + len(MARKER)
    moved = {
        name: tuple(
            (start + way, stop + way)
            for start, stop in spans
            for first, last, way in found
            if first <= start and stop <= last
        )
        for name, spans in words.items()
    }
    return {name: spans for name, spans in moved.items() if len(spans) == len(words[name])}


def among_tokens(
    words: Mapping[str, Spans],
    text: str,
    own: str,
    token_ids: NDArray[np.int64],
    inputs: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    plain: bool,
) -> dict[str, Positions]:
    """The tokens (n,) of each word, by the roles that name them: `words-NAME` all of them, `word-NAME` the last.

    `text` is the prompt with the model's `own` marker, and `plain` that the tokenizer takes it as it is; else what
    processors put in is accounted for, and tokens that do not read as the word are none of it.
    """
    offsets = inputs.get("offset_mapping")
    if not isinstance(offsets, torch.Tensor) or not words:
        return {}
    starts, stops = offsets[0].numpy().T
    images = [one["new_span"] for one in (inputs.get("text_replacement_offsets") or [[]])[0] if one["type"] == "image"]
    found: dict[str, Positions] = {}
    for name, spans in words.items():
        own_tokens = []
        for start, stop in spans:
            for way in [0] if plain else _ways(text, own, start, images, int(stops.max())):
                at = np.flatnonzero((stops > start + way) & (starts < stop + way) & (starts < stops))
                if len(at) and (plain or _folded(text[start:stop]) in _folded(_read(tokenizer, token_ids[at]))):
                    own_tokens.append(at)
                    break
        if spans and len(own_tokens) == len(spans):
            every = np.unique(np.concatenate(own_tokens)).astype(np.int64)
            found |= {f"word-{name}": every[-1:], f"words-{name}": every}
    return found


def _ways(text: str, own: str, at: int, images: Sequence[tuple[int, int]], end: int) -> Iterator[int]:
    """How far what stands at `at` may be moved by what a processor puts in: seen from the image before it, or the one
    behind it, where the processor says where they are; else from the text's begin and end."""
    n = text.count(own)
    if images and len(images) == n:
        before = text.count(own, 0, at)
        markers = [match.span() for match in re.finditer(re.escape(own), text)]
        yield images[before - 1][1] - markers[before - 1][1] if before else images[0][0] - markers[0][0]
        return
    if not n:
        yield 0
    yield end - len(text)
    yield end - len(text.rstrip())


def _read(tokenizer: PreTrainedTokenizerBase, token_ids: NDArray[np.int64]) -> str:
    return str(tokenizer.decode(token_ids.tolist()))


def _folded(text: str) -> str:
    """The text without what tokenizers may change: case, accents, white space."""
    return "".join(one for one in normalize("NFKD", text).casefold() if not combining(one) and not one.isspace())
