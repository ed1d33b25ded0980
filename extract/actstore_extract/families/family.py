"""What one kind of model does its own way; the defaults serve any model that marks its image by a token id."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BatchFeature,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.processing_utils import ProcessorMixin

from actstore_extract.families.anatomy import says
from actstore_extract.families.grid import Lines, lines_seen
from actstore_extract.families.parts import Parts
from actstore_extract.families.remote import brought
from actstore_extract.families.sample import MARKER, Encoded, LayoutError, Prompt
from actstore_extract.families.spans import ASKED, OFFSETS, declared
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import ImageSpan, Layout, Positions

__all__ = ["Family", "Lines"]

_SEQUENCES = ("attention_mask", "input_ids", "mm_token_type_ids", "token_type_ids")  # one entry per token
# What makes positions that are not those of the tokens.
_OWN_POSITIONS = ("create_position_ids_from_input_ids", "get_rope_index")
# What configurations call the factor on logits, the divisor, and the soft cap.
_LOGITS = (
    ("logit_scale", "output_multiplier", "lm_head_multiplier"),
    ("logits_scaling",),
    ("final_logit_softcapping", "logits_soft_cap"),
)


class Family:
    """Facts about one kind of model, and the functions that differ; a subclass in a file of its own ends in `FAMILY`.

    `rules` is the number of the rules by which its roles are found: under others a role may be of other tokens.
    `architectures` are the classes it serves, `parts` the models it is made of if several, `process_options` go into
    every call of the processor for what is no chat, `wrapped` says that what the model declares as begin and end of an
    image always stands around it, and `ragged` names inputs that a batch may fill up with zeros because the model does
    not look at them, `along` has the axes of those that it joins along another than the first. `separators` are
    parameters by name, vectors among the image's tokens that carry the image token's id, whose places `lines` knows.
    """

    name: ClassVar[str]
    rules: ClassVar[int] = 1
    separators: ClassVar[frozenset[str]] = frozenset()
    architectures: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[tuple[str, ...]] = ()
    process_options: ClassVar[Mapping[str, object]] = {}
    wrapped: ClassVar[bool] = False
    ragged: ClassVar[frozenset[str]] = frozenset()
    along: ClassVar[Mapping[str, int]] = {}

    def serves(self, architecture: str, config: PretrainedConfig) -> bool:  # noqa: ARG002
        """Whether models of this class and configuration are of this family."""
        return architecture in self.architectures

    def auto_class(self, config: object) -> type[AutoModelForImageTextToText] | type[AutoModelForCausalLM]:
        """Which Auto class loads the weights; ValueError when none does."""
        own = getattr(config, "auto_map", {}) if brought(config) else {}
        for auto in (AutoModelForImageTextToText, AutoModelForCausalLM):
            if type(config) in auto._model_mapping or auto.__name__ in own:
                return auto
        raise ValueError(
            f"{type(config).__name__.removesuffix('Config')} is neither an image-text nor a causal language model of "
            "Transformers; it needs a family of its own, one file in actstore_extract/families"
        )

    def assemble(
        self,
        parts: Parts,  # noqa: ARG002
        options: Mapping[str, object],  # noqa: ARG002
    ) -> tuple[PreTrainedModel, ProcessorMixin]:
        """The model made of the parts that a file names; `options` are those of `from_pretrained`."""
        raise ValueError(f"{self.name} models are not made of parts")

    def image_token_id(self, module: PreTrainedModel) -> int | None:
        """Id of the placeholder that image tokens have in `input_ids`; None in a model of text alone."""
        for name in ("image_token_id", "image_token_index"):
            token = getattr(module.config, name, None)
            if token is not None:
                return int(token)
        return None

    def n_image_tokens(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> int | None:  # noqa: ARG002
        """How many tokens each image of a sample has, where that is the same for all of them."""
        return None

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """Ids of the tokens that may begin and end an image; empty where the model declares none."""
        return declared(model)

    def marker(self, model: Wrapped) -> str:
        """What stands for the image in a prompt of this model."""
        names = ("image_placeholder_token", "image_token")
        own = (getattr(model.processor, name, None) for name in names)
        return next((one for one in own if isinstance(one, str)), MARKER)

    def process(self, model: Wrapped, prompt: Prompt) -> BatchFeature:
        """The processor's tensors for one sample, whose text has the model's own marker, first axis of one; and what it
        says of the text that it put in."""
        options: dict[str, object] = {}
        if prompt.images:
            pictures = list(prompt.images) if len(prompt.images) == 1 else [list(prompt.images)]  # those of one text
            options = {"images": pictures, "images_kwargs": dict(model.settings)}
        if model.tokenizer.is_fast and (prompt.images or prompt.words):
            options |= OFFSETS if model.processor is model.tokenizer else ASKED
        if "mm_token_type_ids" in inspect.signature(type(model.module).forward).parameters:
            options["return_mm_token_type_ids"] = True  # some give them only when asked
        own = {"add_special_tokens": self.completes(model, prompt)} if prompt.chat else self.process_options
        return cast(BatchFeature, model.processor(text=[prompt.text], **options, **own, return_tensors="pt"))

    def completes(self, model: Wrapped, prompt: Prompt) -> bool:
        """Whether the tokenizer puts its special tokens around the text, as Transformers has it: in chats processors
        do where the template did not write the token that begins texts, tokenizers never."""
        begin = model.tokenizer.bos_token
        is_whole = model.processor is model.tokenizer or (begin is not None and prompt.text.startswith(begin))
        return not (prompt.chat and is_whole)

    def ends_chats(self, model: Wrapped) -> str:  # noqa: ARG002
        """What the processor puts behind a chat."""
        return ""

    def check_begin(self, model: Wrapped, prompt: Prompt, token_ids: NDArray[np.int64]) -> None:
        """LayoutError unless a chat whose template writes the token that begins texts begins with it, once."""
        begin = model.tokenizer.bos_token
        has_one = prompt.chat and begin is not None and prompt.text.startswith(begin)
        if has_one and (token_ids[:2] == model.tokenizer.bos_token_id).tolist() != [True, False]:
            raise LayoutError(f"the chat template begins with {begin}, and the processor doubles it or leaves it out")

    def layout(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        inputs: Mapping[str, torch.Tensor],
        blocks: Sequence[Positions] | None = None,
        n: int = 1,
    ) -> Layout:
        """Where everything is in a sample with images; LayoutError when it is not as it should be.

        `blocks` are the tokens of each image, where the processor says them.
        """
        spans = self.spans(model, token_ids, inputs, blocks, n)
        first, last = spans[0], spans[-1]
        text, before = self.text(model, token_ids, int(last.block[0]), int(last.block[-1]) + 1)
        shown = np.concatenate([span.block for span in spans[:-1]]) if n > 1 else np.empty(0, np.int64)
        return Layout(
            token_ids,
            image=np.concatenate([span.image for span in spans]),
            eol=np.concatenate([span.eol for span in spans]),
            boi=first.boi,
            eoi=last.eoi,
            text=np.setdiff1d(text, shown),
            text_before=np.setdiff1d(before, shown),
            grid=first.grid if n == 1 else None,
            spans=tuple(spans),
        )

    def spans(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        inputs: Mapping[str, torch.Tensor],
        blocks: Sequence[Positions] | None,
        n: int,
    ) -> list[ImageSpan]:
        """The n images of a sample, in reading order."""
        placeholders = np.flatnonzero(token_ids == model.image_token_id)
        expected = self.n_image_tokens(model, inputs)
        if not len(placeholders):
            name = type(model.processor).__name__
            raise LayoutError(f"no image token is left: {name} put none in for the image, or the prompt was cut")
        if expected is not None and len(placeholders) != expected * n:
            raise LayoutError(f"{len(placeholders)} of {expected * n} image tokens: the prompt was cut")
        if not blocks:
            parts = np.split(placeholders, n) if n == 1 or expected is not None else []
            blocks = [np.arange(at[0], at[-1] + 1) for at in parts]
        if len(blocks) != n:
            name = type(model.processor).__name__
            raise LayoutError(f"{n} images, and {name} does not say which tokens are which image's")
        found = [self._span(model, token_ids, _of_picture(inputs, i, n), block) for i, block in enumerate(blocks)]
        for i, (one, following) in enumerate(pairwise(found)):
            if one.eoi is not None and one.eoi in blocks[i + 1]:  # what begins the next, as its processor says
                found[i] = one = replace(one, eoi=None, block=one.block[one.block < blocks[i + 1][0]])
            if one.block[-1] >= following.block[0]:
                raise LayoutError(f"images {i + 1} and {i + 2} share the token that ends one and begins the other")
        return found

    def _span(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        inputs: Mapping[str, torch.Tensor],
        block: Positions,
    ) -> ImageSpan:
        """One image, whose tokens are the block, at least."""
        placeholders = block[token_ids[block] == model.image_token_id]
        image, eol, grid = self.lines(model, token_ids, placeholders, block, inputs)
        boi, eoi = self.ends(model, token_ids, placeholders, block)
        edges = [at for at in (boi, eoi, *block, *eol) if at is not None]
        return ImageSpan(np.arange(min(edges), max(edges) + 1), image=image, eol=eol, boi=boi, eoi=eoi, grid=grid)

    def lines(
        self,
        model: Wrapped,
        token_ids: NDArray[np.int64],
        placeholders: Positions,
        block: Positions,
        inputs: Mapping[str, torch.Tensor],
    ) -> Lines:
        """The lines of the image whose placeholders are there, as far as the tokens show or the processor says them."""
        return lines_seen(token_ids, placeholders, block, inputs, resampled=model.resampled)

    def ends(
        self, model: Wrapped, token_ids: NDArray[np.int64], placeholders: Positions, block: Positions
    ) -> tuple[int | None, int | None]:
        """Positions of what begins and ends the image: of its block's tokens before and behind all placeholders the
        outermost that the model declares, else the outermost that is no text; else the declared one beside the
        block."""
        begins, ends = self.wrappers(model)
        before, behind = block[block < placeholders[0]], block[block > placeholders[-1]]
        boi = _wrapper(token_ids, before, begins, model.added, int(block[0]) - 1)
        eoi = _wrapper(token_ids, behind[::-1], ends, model.added, int(block[-1]) + 1)
        for side, ids, found in (("in front of", begins, boi), ("after", ends, eoi)):
            if self.wrapped and ids and found is None:
                names = " or ".join(model.tokenizer.convert_ids_to_tokens(sorted(ids)))
                raise LayoutError(f"no {names} {side} the image: the prompt was cut")
        return boi, eoi

    def text(
        self, model: Wrapped, token_ids: NDArray[np.int64], start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`text` and `text_before` of a sample whose image, with all its machinery, is start..stop.

        The text of a prompt is what follows its image; where only special tokens do, it is what precedes it. What
        begins a sequence is none, wherever the processor puts it: PaliGemma's stands behind the image.
        """
        words = model.tokenizer
        before = _without_first(token_ids, np.arange(start), {words.bos_token_id, words.eos_token_id})
        after = _without_first(token_ids, np.arange(stop, len(token_ids)), {words.bos_token_id})
        only_specials = np.isin(token_ids[after], words.all_special_ids).all()
        return (before if only_specials else after), before

    def image_words(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:  # noqa: ARG002
        """The tokens (n,) that images are, in the order of their placeholders; None where images are no tokens."""
        return None

    def shape(self, encoded: Encoded) -> tuple[object, ...]:
        """Samples share a batch only if they agree in this: the shapes of what cannot be padded."""
        others = sorted(name for name in encoded.inputs if name not in _SEQUENCES)
        shapes = {name: () if name in self.ragged else self._rest(name, encoded.inputs[name]) for name in others}
        return tuple((name, *shape) for name, shape in shapes.items())

    def _rest(self, name: str, tensor: torch.Tensor) -> tuple[int, ...]:
        """The sizes of an input that have to agree in a batch: those of all axes but the one it is joined along."""
        sizes = list(tensor.shape)
        del sizes[self.along.get(name, 0)]
        return tuple(sizes)

    def collate(self, encoded: Sequence[Encoded], pad_token_id: int, *, left: bool) -> dict[str, torch.Tensor]:
        """Tensors (samples, ...) of samples of one shape, padded to the longest."""
        fill = {"input_ids": pad_token_id}
        batch = {name: [sample.inputs[name] for sample in encoded] for name in encoded[0].inputs}
        return {
            name: _pad(tensors, fill.get(name, 0), left=left)
            if name in _SEQUENCES
            else torch.cat(_filled(tensors) if name in self.ragged else tensors, self.along.get(name, 0))
            for name, tensors in batch.items()
        }

    def on_logits(self, model: Wrapped) -> list[tuple[float, float | None]]:
        """What the model's forward may do to its logits, the likeliest first: the factor, and the soft cap if any.

        Some read the configuration of their text model, and others, whose text model alone would, do not.
        """
        config = model.module.config
        found: dict[tuple[float, float | None], None] = {}
        for one in (config, config.get_text_config()):
            factor, divisor, cap = (
                next(filter(None, (getattr(one, n, None) for n in names)), None) for names in _LOGITS
            )
            found[float(factor or 1) / (divisor or 1), cap] = None
        return list(found)

    def never_said(self, model: Wrapped) -> list[int]:  # noqa: ARG002
        """Ids of tokens whose logits the model's forward takes away."""
        return []

    def facts(self, model: Wrapped) -> dict[str, object]:  # noqa: ARG002
        """What the run card should say beyond what it says of every model."""
        return {}

    def notes(self, model: Wrapped) -> list[str]:  # noqa: ARG002
        """What whoever runs the model should be told once, a sentence each."""
        return []

    def takes_position_ids(self, module: PreTrainedModel) -> bool:
        """Whether plain position ids are what the model would make itself: not where an image has several axes, nor
        where they are counted from the padding's id on, as in RoBERTa."""
        own = any(hasattr(one, name) for one in module.modules() for name in _OWN_POSITIONS)
        plain = not own and not says(module.config, "mrope_section")
        return plain and "position_ids" in inspect.signature(type(module).forward).parameters


def _of_picture(inputs: Mapping[str, torch.Tensor], i: int, n: int) -> Mapping[str, torch.Tensor]:
    """The inputs with what they say of each of n images as what they say of the i-th.

    Each image has one at least of what is counted on an axis, so that n of them are one for each.
    """
    if n == 1:
        return inputs

    def own(name: str, x: torch.Tensor) -> torch.Tensor:
        if name in _SEQUENCES or not isinstance(x, torch.Tensor) or x.ndim < 2:
            return x
        if len(x) == n:
            return x[i : i + 1]
        return x[:, i : i + 1] if len(x) == 1 and x.shape[1] == n else x

    return {name: own(name, x) for name, x in inputs.items()}


def _wrapper(
    token_ids: NDArray[np.int64], side: Positions, declared: frozenset[int], added: frozenset[int], beside: int
) -> int | None:
    """What wraps an image on one side, of the tokens of its block there, the outermost first, and the one beside it."""
    for known in (declared, added):
        for at in side:
            if token_ids[at] in known:
                return int(at)
    return beside if 0 <= beside < len(token_ids) and token_ids[beside] in declared else None


def _without_first(token_ids: NDArray[np.int64], at: Positions, ids: set[int | None]) -> Positions:
    """The positions without those that begin them and have one of the ids."""
    n = next((i for i, token in enumerate(token_ids[at].tolist()) if token not in ids), len(at))
    return at[n:]


def _pad(tensors: Sequence[torch.Tensor], value: int, *, left: bool) -> torch.Tensor:
    """(n, longest) from n tensors (1, length)."""
    longest = max(x.shape[1] for x in tensors)
    gaps = [longest - x.shape[1] for x in tensors]
    sides = [(gap, 0) if left else (0, gap) for gap in gaps]
    return torch.cat([torch.nn.functional.pad(x, side, value=value) for x, side in zip(tensors, sides, strict=True)])


def _filled(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors with zeros behind their ends, each axis but the first, of pictures, as long as the longest."""
    longest = [max(sizes) for sizes in zip(*(x.shape[1:] for x in tensors), strict=True)]
    gaps = [[n for size, most in zip(x.shape[1:], longest, strict=True) for n in (most - size, 0)] for x in tensors]
    return [torch.nn.functional.pad(x, gap[::-1]) for x, gap in zip(tensors, gaps, strict=True)]
