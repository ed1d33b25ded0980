"""A model and its processor, wrapped: encode samples, batch them, run them."""

import inspect
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BatchFeature, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput
from transformers.processing_utils import ProcessorMixin

from actstore_extract.families.anatomy import anatomy, plain, several
from actstore_extract.families.errors import LoadError
from actstore_extract.families.image_settings import in_force
from actstore_extract.families.learned import queries, separators
from actstore_extract.families.placed import among_tokens, remarked
from actstore_extract.families.pretrained import unplaced
from actstore_extract.families.quantised import quantised
from actstore_extract.families.registry import family_of
from actstore_extract.families.remote import brought
from actstore_extract.families.sample import MARKER, Batch, Encoded, LayoutError, Prompt, SampleError
from actstore_extract.families.spans import added, told
from actstore_extract.pictures import PictureError, seen
from actstore_extract.roles import Layout, Positions
from actstore_extract.transfers import sent

__all__ = ["Always", "Batching", "Model"]

Batching = Literal["padded", "of one length", "of one"]

# Names of tables of positions.
_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings)$")
_VIDEO = "<video>"  # as prompts have it whatever the model's own marker is
# What a picture that cannot be read raises, and processors for a prompt they cannot take.
_BAD_SAMPLE = (PictureError, ValueError)


class Always(Protocol):
    """An intervention that belongs to a model itself; `inject` is the layer at which it puts the image in."""

    @property
    def inject(self) -> int: ...

    def held(self, model: "Model", batch: Batch) -> AbstractContextManager[None]:
        """Inside, forwards of the batch run under it."""

    def facts(self) -> list[str]:
        """What the run card says of it."""


class Model:
    """A Hugging Face model with its processor, in eval mode, and the family that knows its ways.

    `settings` are what a recipe changes of the processor's images. `layers` are the decoder's blocks, `norm` what
    follows the last one, if there is one. `always` is what belongs to the model itself and holds in every forward;
    whoever loads it says so. `batching` says which samples may share a forward: any, padded to one length, those of one
    length, or none.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        processor: ProcessorMixin | PreTrainedTokenizerBase,
        *,
        family: str | None = None,
        settings: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self.module = module.eval()  # type: ignore[no-untyped-call]
        self.processor = processor
        self.settings = settings
        self.kind = family_of(type(module).__name__, module.config, family)
        self.decoder, self.layers, self.norm = anatomy(module)
        if self.kind.architectures:
            self._check_image_token()
        if self.image_token_id is not None:
            self._check_separators()
        self.always: Always | None = None
        self.batching: Batching = "padded"

    @property
    def family(self) -> str:
        """The family's name."""
        return self.kind.name

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer, or the processor itself when it is one."""
        return cast(PreTrainedTokenizerBase, getattr(self.processor, "tokenizer", self.processor))

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings."""
        return cast(torch.Tensor, self.module.get_input_embeddings().weight).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the residual stream."""
        return cast(torch.dtype, self.module.dtype)

    @property
    def n_layers(self) -> int:
        """Number of blocks L; residual points are 0..L."""
        return len(self.layers)

    @property
    def head(self) -> nn.Module | None:
        """What makes logits of the residual stream: the model's own, or that of the language model inside it."""
        module: Any = self.module
        own, inner = module.get_output_embeddings(), module._modules.get("language_model")
        found = inner.get_output_embeddings() if own is None and inner is not None else own
        return cast(nn.Module | None, found)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        found = plain(self.decoder.config, "hidden_size", "d_model", "n_embd")
        return int(self.module.get_input_embeddings().weight.shape[1]) if found is None else found

    @property
    def n_heads(self) -> int:
        """Number of attention heads per layer; 0 where the layers differ or the configuration has none."""
        return plain(self.decoder.config, "num_attention_heads") or 0

    @cached_property
    def image_token_id(self) -> int | None:
        """Id of the image's placeholder; None in a model of text alone."""
        return self.kind.image_token_id(self.module)

    @cached_property
    def added(self) -> frozenset[int]:
        """Ids of the tokens that are no text."""
        return added(self.tokenizer)

    @cached_property
    def resampled(self) -> bool:
        """Whether image tokens are learned queries and no patches."""
        return queries(self.module)

    @cached_property
    def pad_token_id(self) -> int:
        """What fills up shorter samples: any token but the image's."""
        ids = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0, 1)
        return next(i for i in ids if i is not None and i != self.image_token_id)

    @cached_property
    def _accepted(self) -> frozenset[str]:
        """What goes into the forward; never labels, which some processors return and a forward would train on."""
        return frozenset(inspect.signature(type(self.module).forward).parameters) - {"labels"}

    def _check_image_token(self) -> None:
        """LoadError unless configuration, vocabulary and tokenizer agree on the image token."""
        name, marker = type(self.module).__name__, self.kind.marker(self)
        if self.image_token_id is None:
            raise LoadError(f"the configuration of this {name} names no image token")
        known = getattr(self.module.config, "vocabulary_map", None)
        if known is not None and marker not in known:
            raise LoadError(f"the vocabulary_map of this {name}'s configuration lacks its image token {marker}")
        own = self.tokenizer.convert_tokens_to_ids(marker)
        if own != self.image_token_id:
            raise LoadError(
                f"{marker} is token {own} of the tokenizer and {self.image_token_id} of the configuration of this "
                f"{name}: tokenizer files and config.json are not of the same checkpoint, or the token is missing"
            )

    def _check_separators(self) -> None:
        """LoadError for vectors among the image's tokens that the family does not know, and would call image tokens."""
        if unknown := sorted(separators(self.module, self.layers, self.d_model) - self.kind.separators):
            raise LoadError(
                f"{type(self.module).__name__} has {' and '.join(unknown)}, vectors that have the image token's "
                "id and are no image tokens: it needs a family that knows their places, one file in "
                "actstore_extract/families"
            )

    def vocabulary(self) -> dict[int, str]:
        """Token id -> the tokenizer's own string for it, by id."""
        return dict(sorted((i, token) for token, i in self.tokenizer.get_vocab().items()))

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokens and layout of one sample; SampleError, with the reason, when it cannot be run."""
        try:
            checked = self._check(prompt)
            inputs = self.kind.process(self, checked)
            tensors = self._tensors(inputs, has_image=bool(checked.images))
            token_ids = tensors["input_ids"][0].numpy().astype(np.int64)
            self.kind.check_begin(self, checked, token_ids)
            layout = self._image_layout(token_ids, inputs, checked) if checked.images else self._text_layout(token_ids)
        except _BAD_SAMPLE as error:
            raise SampleError(prompt.sample_id, " ".join(str(error).split())) from error
        if reason := self._unfit(layout):
            raise SampleError(prompt.sample_id, reason)
        layout = replace(layout, words=self._words(checked, token_ids, inputs))
        return Encoded(
            prompt.sample_id, tensors, replace(layout, text=layout.text_before) if prompt.image_last else layout
        )

    def _words(self, prompt: Prompt, token_ids: NDArray[np.int64], inputs: BatchFeature) -> dict[str, Positions]:
        """The positions of the roles by words."""
        own, plain = self.kind.marker(self), self.processor is self.tokenizer
        return among_tokens(prompt.words, prompt.text, own, token_ids, inputs, self.tokenizer, plain=plain)

    def _tensors(self, inputs: BatchFeature, *, has_image: bool) -> dict[str, torch.Tensor]:
        """What the forward takes of what the processor gives; LayoutError where it would miss something of it."""
        name = type(self.processor).__name__
        given = {key: value for key, value in inputs.items() if key in self._accepted and value is not None}
        for key, value in given.items():
            if not isinstance(value, torch.Tensor):
                raise LayoutError(f"{name} gives {key} as a {type(value).__name__}, which no batch of tensors has")
        if not given.get("attention_mask", torch.ones(1)).all():
            raise LayoutError(f"{name} pads a single sample, whose padding would be taken for text")
        if has_image and not any("pixel" in key for key in given):
            raise LayoutError(f"{name} left the image out: it gives {', '.join(given)}")
        return given

    def _unfit(self, layout: Layout) -> str | None:
        """Why a forward could not take these tokens; a GPU would be lost to the process that tried."""
        if not layout.length:
            return "the prompt has no tokens"
        if self._longest is not None and layout.length > self._longest:
            return f"{layout.length} tokens, and this model has positions for {self._longest}"
        rows = self.module.get_input_embeddings().weight.shape[0]
        words = layout.token_ids[np.union1d(layout.text_before, layout.text)]
        if len(words) and words.max() >= rows:
            token = self.tokenizer.convert_ids_to_tokens(int(words.max()))
            return f"{token!r} is token {words.max()}, and this model has {rows} embeddings: its tokenizer is another's"
        return None

    @cached_property
    def _longest(self) -> int | None:
        """How many tokens a prompt may have, where positions are rows of a table; None where they go on."""
        tables = (name for name, one in self.decoder.named_modules() if isinstance(one, nn.Embedding))
        if not any(_POSITIONS.search(name) for name in tables):
            return None
        return plain(self.decoder.config, "max_position_embeddings")

    def _image_layout(self, token_ids: NDArray[np.int64], inputs: BatchFeature, prompt: Prompt) -> Layout:
        blocks = told(self.tokenizer, inputs, prompt.text, np.flatnonzero(token_ids == self.image_token_id))
        return self.kind.layout(self, token_ids, inputs, blocks, len(prompt.images))

    def _text_layout(self, token_ids: NDArray[np.int64]) -> Layout:
        text, _ = self.kind.text(self, token_ids, len(token_ids), len(token_ids))
        return Layout(token_ids, text=text)

    def _check(self, prompt: Prompt) -> Prompt:
        """The prompt with the model's own marker, and its images as they are `seen`."""
        own, n = self.kind.marker(self), len(prompt.images)
        n_markers = sum(prompt.text.count(marker) for marker in {MARKER, own})
        if n and self.image_token_id is None:
            raise LayoutError(f"an image for {type(self.module).__name__}, a model without image token")
        if n and not n_markers:
            raise LayoutError(f"an image but no {MARKER} in the prompt {prompt.text!r}")
        if n_markers and not n:
            raise LayoutError(f"{MARKER} in the prompt but no image")
        if n_markers != n:
            raise LayoutError(f"{n_markers} {MARKER} in the prompt for {n} image{'s' * (n > 1)} of the sample")
        video = getattr(self.processor, "video_token", None)
        found = [one for one in ([video, _VIDEO] if isinstance(video, str) else []) if one in prompt.text]
        if found:
            raise LayoutError(
                f"{found[0]} in the prompt: videos are not run; give its frames as images, an {MARKER} each"
            )
        return prompt._replace(
            text=prompt.text.replace(MARKER, own),
            image=tuple(map(seen, prompt.images)),
            words=remarked(prompt.words, prompt.text, MARKER, own),
        )

    def batches(self, encoded: Sequence[Encoded], batch_size: int) -> list[list[int]]:
        """Indices of samples that go together: of one shape, near in length, the same for the same samples."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for i, sample in enumerate(encoded):
            length = sample.length if self.batching == "of one length" else None
            groups.setdefault((length, *self.kind.shape(sample)), []).append(i)
        batch_size = 1 if self.batching == "of one" else batch_size
        ordered = [sorted(group, key=lambda i: encoded[i].length) for group in groups.values()]
        return [group[i : i + batch_size] for group in ordered for i in range(0, len(group), batch_size)]

    def collate(self, encoded: Sequence[Encoded], *, left: bool = False) -> Batch:
        """Samples that `batches` put together, padded on the right, or on the left as generation needs it."""
        inputs = self.kind.collate(encoded, self.pad_token_id, left=left)
        if left and self.kind.takes_position_ids(self.module):
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        lengths = np.array([sample.length for sample in encoded], np.int64)
        return Batch(
            sample_ids=tuple(sample.sample_id for sample in encoded),
            layouts=tuple(sample.layout for sample in encoded),
            inputs={name: self._place(tensor) for name, tensor in inputs.items()},
            offset=lengths.max() - lengths if left else np.zeros_like(lengths),
        )

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        there = sent(tensor, self.device)
        return there.to(self.dtype) if there.is_floating_point() else there  # rounded by the device

    @property
    def inject(self) -> int:
        """The layer at which the image comes in: behind so many blocks, 0 in all models but some adapters'."""
        return int(getattr(self.module, "inject", 0))

    def held(self, batch: Batch) -> AbstractContextManager[None]:
        """Inside, forwards of the batch run under what always holds.

        LoadError where the image comes in at a later layer, and nothing that holds brings it there.
        """
        if self.inject and (self.always is None or self.always.inject != self.inject):
            raise LoadError(f"this adapter puts the image in at layer {self.inject}: run it under always_blocked")
        return nullcontext() if self.always is None else self.always.held(self, batch)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> CausalLMOutput:
        """One forward without cache, under what always holds."""
        with self.held(batch):
            return cast(CausalLMOutput, self.module(**batch.inputs, use_cache=False))

    def notes(self) -> list[str]:
        """What whoever runs the model should be told once: what could not be found, what looks wrong."""
        return [*self._unplaced(), *self.kind.notes(self)]

    def _unplaced(self) -> list[str]:
        """Weights that do nothing: of blocks beyond the number that the configuration says, or of another kind."""
        if not (names := unplaced(self.module)):
            return []
        count = f"{len(names)} weights of the checkpoint have" if len(names) > 1 else "1 weight of the checkpoint has"
        return [f"{count} no place in {type(self.module).__name__} and did nothing, such as {names[-1]}"]

    def facts(self) -> dict[str, object]:
        """What the run card should say about the model."""
        config, heads = self.decoder.config, self.n_heads
        streams = several(config)
        begins, ends = self.kind.wrappers(self)
        found = {"image": self.image_token_id is not None, "boi": begins, "eoi": ends}
        return {
            "architecture": type(self.module).__name__,
            "family": self.family,
            "revision": getattr(self.module.config, "_commit_hash", None),
            "dtype": str(self.dtype).removeprefix("torch."),
            **({} if (method := quantised(self.module)) is None else {"quantised": method}),
            "attention": config._attn_implementation,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "n_heads": heads or None,
            "n_kv_heads": plain(config, "num_key_value_heads") or heads or None,
            "head_dim": plain(config, "head_dim") or (self.d_model // heads if heads else None),
            **({} if streams is None else {"residual_stream": streams}),
            "image_token_id": self.image_token_id,
            "boi": self.tokenizer.convert_ids_to_tokens(sorted(begins)),
            "eoi": self.tokenizer.convert_ids_to_tokens(sorted(ends)),
            "not_found": [what for what, there in found.items() if not there],
            "padding": "right",
            "position_ids": self.kind.takes_position_ids(self.module),
            "code": brought(self.module),
            "processor": in_force(self.processor, self.settings),
            "blocked": [] if self.always is None else self.always.facts(),
            **self.kind.facts(self),
        }
