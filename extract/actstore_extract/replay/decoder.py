"""The decoder of a model alone: no vision tower, no processor, its weights read shard by shard."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from actstore_extract.families import LoadError, Model
from actstore_extract.families.parts import read_parts
from actstore_extract.families.pretrained import explained
from actstore_extract.families.quantised import method
from actstore_extract.families.registry import family_of
from actstore_extract.families.words import said_after
from actstore_extract.interventions.blocks import always_blocked
from actstore_extract.replay.shards import Shards

__all__ = ["Decoder", "load_decoder"]


class Decoder(Model):
    """A model of which only what follows the embeddings has weights: blocks, norm and head, on the CPU.

    With `low_memory` a block has them only while it runs, or inside `holding`.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        shards: Shards,
        *,
        low_memory: bool = False,
    ) -> None:
        super().__init__(module, tokenizer, family="generic")
        self.shards, self.low_memory = shards, low_memory
        self.names = {id(one): name for name, one in module.named_modules()}
        head = module.get_output_embeddings()  # type: ignore[no-untyped-call]
        if head is None:
            raise LoadError(f"{type(module).__name__} has no language-model head, so no next token")
        for one in filter(None, (self.norm, head)):
            self._fill(one)
        for layer, block in enumerate(self.layers):
            if low_memory:
                self._lend(layer)
            else:
                self._fill(block)
        self._compute_buffers()

    @property
    def device(self) -> torch.device:
        """Where it runs; what it does not run, such as the embeddings, is nowhere."""
        return torch.device("cpu")

    @property
    def weight_bytes(self) -> int:
        """What the weights take that are held at once."""
        head = self.module.get_output_embeddings()
        blocks = [sum(weight.numel() for weight in block.parameters()) for block in self.layers]
        rest = sum(weight.numel() for one in filter(None, (self.norm, head)) for weight in one.parameters())
        return int((rest + (max(blocks) if self.low_memory else sum(blocks))) * self.dtype.itemsize)

    def tokens(self, word: str, prompts: Iterable[str]) -> list[int]:
        """The tokens of a word as it follows the prompts; raises WordError where it has none of its own there."""
        return said_after(self.tokenizer, prompts, word)

    def text(self, token: int) -> str:
        """A token as text, as stores have the next token."""
        return str(self.tokenizer.decode([token]))

    @property
    def unknown(self) -> int | None:
        """The token of words that the tokenizer does not know."""
        return cast(int | None, self.tokenizer.unk_token_id)

    @contextmanager
    def holding(self, layer: int) -> Iterator[None]:
        """Inside, a block that has no weights of its own has them; outside it has none."""
        block = self.layers[layer]
        if not any(weight.is_meta for weight in block.parameters()):
            yield
            return
        self._fill(block)
        try:
            yield
        finally:
            self.shards.drop(block)

    def _check_separators(self) -> None:
        """None are asked for: what is replayed has its image in it."""

    def _fill(self, module: nn.Module) -> None:
        self.shards.fill(module, self.names[id(module)], self.dtype)

    def _lend(self, layer: int) -> None:
        """The block reads its weights when it runs."""
        block = self.layers[layer]
        run = block.forward

        def forward(*args: object, **kwargs: object) -> object:
            with self.holding(layer):
                return run(*args, **kwargs)

        block.__dict__["forward"] = forward

    def _compute_buffers(self) -> None:
        """What no checkpoint has, because it follows from the configuration: the frequencies of rotations."""
        for one in self.decoder.modules():
            buffers = list(one.buffers(recurse=False))
            if any(buffer.is_meta for buffer in buffers) and not list(one.parameters(recurse=False)):
                one.to_empty(device="cpu", recurse=False)
                self.module._init_weights(one)


def load_decoder(
    path: str,
    *,
    family: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    revision: str | None = None,
    attention: str | None = None,
    blocked: Sequence[Mapping[str, object]] = (),
    low_memory: bool = False,
) -> Decoder:
    """The decoder of the model that `families.load` takes there; LoadError says what is missing."""
    parts = read_parts(path)
    if parts is not None:
        if "language" not in parts.entries:
            raise LoadError(
                f"{parts.file}: a replay reads the weights of one checkpoint; save this model as one, merged "
                "(save_pretrained), and give its folder"
            )
        path, revision = parts.model("language")
    with explained(path):
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        if parts is not None and hasattr(config, "vision_config"):
            raise LoadError(
                f"{parts.file}: a replay needs the language model as a checkpoint of its own, not half of one"
            )
        if (how := method(config)) is not None:
            raise LoadError(f"its weights are quantised ({how}), and a replay reads them as numbers")
        module = _empty(config, family if parts is None else None, dtype, attention)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
        shards = Shards(module, path, revision)
        return always_blocked(Decoder(module, tokenizer, shards, low_memory=low_memory), blocked)


def _empty(config: PretrainedConfig, family: str | None, dtype: torch.dtype, attention: str | None) -> PreTrainedModel:
    """The whole model, but without weights: it takes no memory."""
    kind = family_of((config.architectures or [""])[0], config, family)
    options = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        module = kind.auto_class(config).from_config(config, dtype=dtype, **options)  # type: ignore[no-untyped-call]
    return cast(PreTrainedModel, module)
