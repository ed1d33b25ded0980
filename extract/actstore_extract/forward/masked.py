"""Attention taken away by its mask, in any attention that heeds one: before the softmax, in all heads."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

import torch
from torch import nn

from actstore_extract.families import Model
from actstore_extract.forward.slots import at_slots
from actstore_extract.forward.tap import KERNELS, AttentionError, asks, attention_of, run_in, tapped, window
from actstore_extract.forward.weights import Edit, Rows, visible

__all__ = ["masked"]

_OUTPUTS = (
    "o_proj",
    "out_proj",
    "dense",
    "c_proj",
    "wo",
)  # what takes the heads' outputs, (samples, queries, heads * d)
# Attentions of their own code whose mask says, as ours does, what may be seen: MPT's says what may not.
_OWN = ("BloomAttention", "CodeGenAttention", "FalconAttention", "GPTJAttention", "GPTNeoAttention")
_HEEDING: WeakSet[nn.Module] = WeakSet()  # modules that are known to hand on the mask that they are given


@contextmanager
def masked(model: Model, edits: Iterable[tuple[int, Edit]]) -> Iterator[None]:
    """Inside, the attention of these blocks (0-based) lacks what the edits take from all heads before the softmax.

    A query that is left no key attends to nothing. AttentionError for attention that heeds no mask, and in a forward
    where that cannot be said to the model or where its mask is not one of queries x keys.
    """
    kernel = str(model.decoder.config._attn_implementation)
    with ExitStack() as undo:
        for layer, edit in edits:
            module, mask = attention_of(model, layer), _Mask(layer, edit, is_bool=kernel.endswith("sdpa"))
            if asks(module) and kernel in KERNELS:
                undo.enter_context(tapped(model, [(layer, mask.look)]))
            elif not asks(module) and type(module).__name__ not in _OWN:
                raise AttentionError(
                    f"{type(module).__name__} of block {layer} is not known to heed a mask of queries x keys: nothing "
                    "can be blocked in it"
                )
            else:
                undo.enter_context(run_in(model, layer, module))
            undo.callback(module.register_forward_pre_hook(mask.before, with_kwargs=True).remove)
            undo.callback(module.register_forward_hook(mask.after).remove)
            for name, output in module.named_modules():
                if name.rpartition(".")[2] in _OUTPUTS:
                    undo.callback(output.register_forward_pre_hook(mask.between).remove)
        yield


class _Mask:
    """An edit in one attention module, and where its forward stands."""

    def __init__(self, layer: int, edit: Edit, *, is_bool: bool) -> None:
        self.layer, self.edit, self.is_bool = layer, edit, is_bool
        self.blind = torch.empty(0, 0, dtype=torch.bool)  # (samples, queries): those that are left nothing
        self.cut = torch.empty(0, 0, 0, 0, dtype=torch.bool)  # (samples, 1, queries, keys)
        self.zeroed = False

    def before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        assert isinstance(hidden, torch.Tensor)
        query_slots, key_slots = window(self.layer, args, kwargs)
        queries = at_slots(self.edit.queries, query_slots, beyond=self.edit.is_open).to(hidden.device)
        keys = at_slots(self.edit.keys, key_slots, beyond=False).to(hidden.device)
        causal = (key_slots <= query_slots[:, None]).to(hidden.device)
        mask = kwargs.get("attention_mask")
        if mask is None:  # what stands for the causal mask
            mask = causal[None, None] if self.is_bool else _additive(causal[None, None], hidden.dtype)
        if not isinstance(mask, torch.Tensor) or mask.ndim != 4 or mask.shape[2:] != causal.shape:
            shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise AttentionError(
                f"{type(module).__name__} of block {self.layer} has a mask {shape} for {len(query_slots)} queries and "
                f"{len(key_slots)} keys: nothing can be blocked in it"
            )
        self.module, self.cut = module, queries[:, None, :, None] & keys[:, None, None]
        cut = self.cut
        mask = mask & ~cut if mask.dtype == torch.bool else mask.masked_fill(cut, torch.finfo(mask.dtype).min)
        seen = visible(mask)
        for own in module.buffers():  # GPT-Neo keeps the windows of its blocks to itself
            if own.dtype == torch.bool and own.ndim == 4:
                seen = seen & own[:, :, query_slots][..., key_slots].to(seen.device)
        self.blind, self.zeroed = queries & ~seen.any(-1).any(1), False
        return args, {**kwargs, "attention_mask": mask}

    def look(self, rows: Rows) -> None:
        """AttentionError, in the module's first forward, where the kernel is not given what the module was."""
        if self.module in _HEEDING or not self.cut.any():
            return
        if rows.mask is None or (visible(rows.mask[..., : rows.n_keys]) & self.cut).any():
            raise AttentionError(
                f"{type(self.module).__name__} of block {self.layer} does not hand its kernel the mask it is given: "
                "nothing can be blocked in it"
            )
        _HEEDING.add(self.module)

    def between(self, _: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        """Blind queries give nothing: kernels with additive masks would let them see every key evenly."""
        if args[0].shape[:-1] != self.blind.shape:
            return None
        self.zeroed = True
        return (args[0].masked_fill(self.blind[..., None], 0), *args[1:])

    def after(self, module: nn.Module, *_: object) -> None:
        if not self.zeroed and self.blind.any():
            raise AttentionError(
                f"{type(module).__name__} of block {self.layer}: {int(self.blind.sum())} queries lose every key they "
                "have, which this attention cannot be told: leave them one, or block after the softmax"
            )


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, torch.finfo(dtype).min)
