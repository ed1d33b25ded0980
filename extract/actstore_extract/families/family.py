"""What one kind of model does its own way; the defaults serve any model that marks its image by a token id."""

import inspect
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, cast

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

from actstore_extract.families.parts import Parts
from actstore_extract.families.remote import brought
from actstore_extract.families.sample import MARKER, Encoded, LayoutError, Prompt
from actstore_extract.families.wrapped import Wrapped
from actstore_extract.roles import Layout, Positions

__all__ = ["Family", "Lines"]

_SEQUENCES = ("attention_mask", "input_ids", "mm_token_type_ids", "token_type_ids")  # one entry per token
# Attributes by which configurations, processors and tokenizers declare what wraps an image.
_BOI = ("boi_token_id", "boi_token_index", "image_start_token_id", "vision_start_token_id")
_EOI = ("eoi_token_id", "eoi_token_index", "image_end_token_id", "vision_end_token_id")


class Lines(NamedTuple):
    """The image tokens of a sample in raster order, the ends of their lines, and (rows, columns) where known."""

    image: Positions
    eol: Positions
    grid: tuple[int, int] | None


class Family:
    """Facts about one kind of model, and the functions that differ; a subclass in a file of its own ends in `FAMILY`.

    `architectures` are the classes it serves, `parts` the models it is made of if several, `process_options` go into
    every call of the processor for what is no chat, `wrapped` says that what the model declares as begin and end of an
    image always stands around it, and `ragged` names inputs that a batch may fill up with zeros because the model does
    not look at them.
    """

    name: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[tuple[str, ...]] = ()
    process_options: ClassVar[Mapping[str, object]] = {}
    wrapped: ClassVar[bool] = False
    ragged: ClassVar[frozenset[str]] = frozenset()

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

    def n_image_tokens(self, model: Wrapped) -> int | None:  # noqa: ARG002
        """How many tokens an image has, where that is the same for all images."""
        return None

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """Ids of the tokens that may begin and end an image; empty where the model declares none."""
        return _declared(model, _BOI), _declared(model, _EOI)

    def marker(self, model: Wrapped) -> str:
        """What stands for the image in a prompt of this model."""
        own = getattr(model.processor, "image_token", None)
        return own if isinstance(own, str) else MARKER

    def process(self, model: Wrapped, prompt: Prompt) -> BatchFeature:
        """The processor's tensors for one sample, whose text has the model's own marker; first axis of one."""
        images = {} if prompt.image is None else {"images": [prompt.image]}
        own = {"add_special_tokens": self.completes(model, prompt)} if prompt.chat else self.process_options
        return cast(BatchFeature, model.processor(text=[prompt.text], **images, **own, return_tensors="pt"))

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

    def layout(self, model: Wrapped, token_ids: NDArray[np.int64], inputs: Mapping[str, torch.Tensor]) -> Layout:
        """Where everything is in a sample with an image; LayoutError when it is not as it should be."""
        placeholders = np.flatnonzero(token_ids == model.image_token_id)
        expected = self.n_image_tokens(model)
        if not len(placeholders) or len(placeholders) != (expected or len(placeholders)):
            raise LayoutError(f"{len(placeholders)} of {expected or 'some'} image tokens: the prompt was cut")
        image, eol, grid = self.lines(model, token_ids, placeholders, inputs)
        start, stop = int(placeholders[0]), int(placeholders[-1]) + 1
        boi, eoi = self.ends(model, token_ids, start, stop)
        text, before = self.text(model, token_ids, start if boi is None else boi, stop if eoi is None else eoi + 1)
        return Layout(token_ids, image=image, eol=eol, boi=boi, eoi=eoi, text=text, text_before=before, grid=grid)

    def lines(
        self,
        model: Wrapped,  # noqa: ARG002
        token_ids: NDArray[np.int64],
        placeholders: Positions,
        inputs: Mapping[str, torch.Tensor],  # noqa: ARG002
    ) -> Lines:
        """The lines of the image whose placeholders are there: what stands between those is a line's end."""
        eol = np.setdiff1d(np.arange(placeholders[0], placeholders[-1]), placeholders)
        if len(np.unique(token_ids[eol])) > 1:
            raise LayoutError("different tokens stand between the image tokens; this layout needs a family of its own")
        return Lines(placeholders, eol, _grid(placeholders, eol))

    def ends(
        self, model: Wrapped, token_ids: NDArray[np.int64], start: int, stop: int
    ) -> tuple[int | None, int | None]:
        """Positions of what begins and ends the image start..stop, if the tokens there are what the model declares."""
        begins, ends = self.wrappers(model)
        boi = start - 1 if start > 0 and token_ids[start - 1] in begins else None
        eoi = stop if stop < len(token_ids) and token_ids[stop] in ends else None
        for side, ids, found in (("in front of", begins, boi), ("after", ends, eoi)):
            if self.wrapped and ids and found is None:
                names = " or ".join(model.tokenizer.convert_ids_to_tokens(sorted(ids)))
                raise LayoutError(f"no {names} {side} the image: the prompt was cut")
        return boi, eoi

    def text(
        self, model: Wrapped, token_ids: NDArray[np.int64], start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`text` and `text_before` of a sample whose image, with all its machinery, is start..stop.

        The text of a prompt is what follows its image; where only special tokens do, it is what precedes it.
        """
        first = int(len(token_ids) > 0 and token_ids[0] == model.tokenizer.bos_token_id)
        before, after = np.arange(first, start), np.arange(stop, len(token_ids))
        only_specials = np.isin(token_ids[after], model.tokenizer.all_special_ids).all()
        return (before if only_specials else after), before

    def image_words(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor | None:  # noqa: ARG002
        """The tokens (n,) that images are, in the order of their placeholders; None where images are no tokens."""
        return None

    def shape(self, encoded: Encoded) -> tuple[object, ...]:
        """Samples share a batch only if they agree in this: the shapes of what cannot be padded."""
        others = sorted(name for name in encoded.inputs if name not in _SEQUENCES)
        shapes = {name: () if name in self.ragged else encoded.inputs[name].shape[1:] for name in others}
        return tuple((name, *shape) for name, shape in shapes.items())

    def collate(self, encoded: Sequence[Encoded], pad_token_id: int, *, left: bool) -> dict[str, torch.Tensor]:
        """Tensors (samples, ...) of samples of one shape, padded to the longest."""
        fill = {"input_ids": pad_token_id}
        batch = {name: [sample.inputs[name] for sample in encoded] for name in encoded[0].inputs}
        return {
            name: _pad(tensors, fill.get(name, 0), left=left)
            if name in _SEQUENCES
            else torch.cat(_filled(tensors) if name in self.ragged else tensors)
            for name, tensors in batch.items()
        }

    def on_logits(self, model: Wrapped) -> tuple[float, float | None]:
        """What the model's forward does to its logits: the factor, and the soft cap if there is one."""
        config = model.module.config
        factor = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        return float(factor), getattr(config, "final_logit_softcapping", None)

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
        """Whether plain position ids may be given: not to models that make their own of several axes."""
        rope = getattr(module.config.get_text_config(), "rope_parameters", None) or {}
        return "mrope_section" not in rope and "position_ids" in inspect.signature(type(module).forward).parameters


def _declared(model: Wrapped, names: Sequence[str]) -> frozenset[int]:
    """Token ids that the configuration, the processor or the tokenizer gives under one of the names."""
    places = (model.module.config, model.processor, model.tokenizer)
    ids = {getattr(place, name, None) for place in places for name in names}
    return frozenset(i for i in ids if isinstance(i, int))


def _grid(image: NDArray[np.int64], eol: NDArray[np.int64]) -> tuple[int, int] | None:
    """Rows and columns of the image tokens: by their line ends, else those of a square, else unknown."""
    if not len(eol):
        side = round(len(image) ** 0.5)
        return (side, side) if side * side == len(image) else None
    lengths = np.diff(np.searchsorted(image, [0, *eol, image[-1] + 1]))
    lengths = lengths[lengths > 0]
    return (len(lengths), int(lengths[0])) if (lengths == lengths[0]).all() else None


def _pad(tensors: Sequence[torch.Tensor], value: int, *, left: bool) -> torch.Tensor:
    """(n, longest) from n tensors (1, length)."""
    longest = max(x.shape[1] for x in tensors)
    gaps = [longest - x.shape[1] for x in tensors]
    sides = [(gap, 0) if left else (0, gap) for gap in gaps]
    return torch.cat([torch.nn.functional.pad(x, side, value=value) for x, side in zip(tensors, sides, strict=True)])


def _filled(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors with zeros behind their ends, each axis as long as the longest."""
    longest = [max(sizes) for sizes in zip(*(x.shape for x in tensors), strict=True)]
    gaps = [[n for size, most in zip(x.shape, longest, strict=True) for n in (most - size, 0)] for x in tensors]
    return [torch.nn.functional.pad(x, gap[::-1]) for x, gap in zip(tensors, gaps, strict=True)]
