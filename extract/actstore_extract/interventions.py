"""Interventions in a model's forward: attention blocks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from transformers import Cache

from actstore.errors import ActstoreError, nearest
from actstore_extract.positions import Role, parse_role, positions

if TYPE_CHECKING:
    from actstore_extract.families import Batch, Model

__all__ = ["Block", "InterventionError", "attention_modules", "block_attention", "parse_block"]

_MASKLESS = ("flash", "flex", "paged")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")


class InterventionError(ActstoreError):
    """The intervention is not one this model can have."""


@dataclass(frozen=True)
class Block:
    """Attention that must not happen: these queries give no weight to these keys, in `layers` (None: in all)."""

    queries: tuple[Role, ...]
    keys: tuple[Role, ...]
    layers: tuple[int, ...] | None = None

    def __str__(self) -> str:
        queries, keys = ("+".join(role.name for role in roles) for roles in (self.queries, self.keys))
        return f"{queries} -> {keys}, " + ("all layers" if self.layers is None else f"layers {list(self.layers)}")


def parse_block(spec: Mapping[str, object], *, n_layers: int) -> Block:
    """The block that {"queries": roles, "keys": roles, "layers": [...]} describes; roles are a name or a list.

    >>> print(parse_block({"queries": "text", "keys": ["boi", "image"]}, n_layers=32))
    text -> boi+image, all layers
    """
    known = ["queries", "keys", "layers"]
    for name in spec:
        if name not in known:
            raise InterventionError(f"an attention block has no {name!r}{nearest(name, known)}; it has {known}")
    if not spec.keys() >= {"queries", "keys"}:
        raise InterventionError(f"an attention block needs queries and keys, not only {sorted(spec)}")
    return Block(_roles(spec["queries"]), _roles(spec["keys"]), _layers(spec.get("layers"), n_layers))


def _roles(value: object) -> tuple[Role, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise InterventionError(f"{value!r} is neither a role nor a list of roles")
    roles = tuple(parse_role(str(name)) for name in names)
    for role in roles:
        if role.is_mean:
            raise InterventionError(f"{role.name} is a mean of positions, so no attention goes to or from it")
    return roles


def _layers(value: object, n_layers: int) -> tuple[int, ...] | None:
    if value is None:
        return None
    layers = tuple(value) if isinstance(value, list | tuple | range) else ()
    if not layers or not all(isinstance(layer, int) and 0 <= layer < n_layers for layer in layers):
        raise InterventionError(f"layers {value!r}: a list of block numbers from 0 to {n_layers - 1} is wanted")
    return layers


def attention_modules(model: "Model") -> list[nn.Module]:
    """The attention module of each block."""
    found = [
        next((getattr(block, name) for name in _ATTENTION if hasattr(block, name)), None) for block in model.layers
    ]
    missing = [layer for layer, module in enumerate(found) if module is None]
    if missing:
        raise InterventionError(f"blocks {missing} of {type(model.decoder).__name__} have no attention to intervene in")
    return [module for module in found if module is not None]


@contextmanager
def block_attention(model: "Model", batch: "Batch", blocks: Sequence[Block], *, seed: int = 0) -> Iterator[None]:
    """Forwards of the batch run with scores of -inf for what is blocked: the rest of the softmax takes its share.

    Holds for generation too: tokens that follow the prompt are blocked where the queries' role reaches its end.
    """
    implementation = str(model.decoder.config._attn_implementation)
    if blocks and any(kind in implementation for kind in _MASKLESS):
        raise InterventionError(f"attention blocks need a mask, which {implementation!r} has not: choose sdpa or eager")
    with ExitStack() as hooks:
        modules = attention_modules(model) if blocks else []
        for block in blocks:
            hook = _mask_hook(_slots(batch, block.queries, seed), _slots(batch, block.keys, seed), _is_open(block))
            for layer in range(model.n_layers) if block.layers is None else block.layers:
                handle = modules[layer].register_forward_pre_hook(hook, with_kwargs=True)
                hooks.callback(handle.remove)
        yield


def _is_open(block: Block) -> bool:
    return any(role.is_open for role in block.queries)


def _slots(batch: "Batch", roles: Sequence[Role], seed: int) -> torch.Tensor:
    """Which slots (samples, slots) of the batch the roles name."""
    chosen = torch.zeros(len(batch), batch.n_slots, dtype=torch.bool)
    for i, (sample_id, layout) in enumerate(zip(batch.sample_ids, batch.layouts, strict=True)):
        for role in roles:
            at = positions(role, layout, seed=seed, sample_id=sample_id)
            if at is not None:
                chosen[i, at + int(batch.offset[i])] = True
    return chosen


_Hook = Callable[[nn.Module, tuple[object, ...], dict[str, object]], tuple[tuple[object, ...], dict[str, object]]]


def _mask_hook(queries: torch.Tensor, keys: torch.Tensor, is_open: bool) -> _Hook:
    """A pre-hook of an attention module that takes `queries` x `keys`, both (samples, slots), out of its mask."""

    def hook(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        assert isinstance(hidden, torch.Tensor)
        query_slots, key_slots = _window(module, cast(Cache | None, kwargs.get("past_key_values")), hidden)
        cut = (
            _at(queries, query_slots, beyond=is_open)[:, None, :, None]
            & _at(keys, key_slots, beyond=False)[:, None, None]
        ).to(hidden.device)
        causal = (key_slots <= query_slots[:, None]).to(hidden.device)
        return args, {**kwargs, "attention_mask": _without(kwargs.get("attention_mask"), cut, causal)}

    return hook


def _window(module: nn.Module, past: Cache | None, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots of the queries and of the keys in this forward; a cache of a sliding window has dropped its first keys."""
    n = hidden.shape[1]
    if past is None:
        return torch.arange(n), torch.arange(n)
    layer = cast(int, module.layer_idx)
    first = int(past.get_seq_length(layer))
    n_keys, first_key = past.get_mask_sizes(n, layer)
    return torch.arange(first, first + n), torch.arange(first_key, first_key + n_keys)


def _at(chosen: torch.Tensor, slots: torch.Tensor, *, beyond: bool) -> torch.Tensor:
    """`chosen` (samples, slots) at these slots; `beyond` for slots after the prompt."""
    n_slots = chosen.shape[1]
    inside = chosen[:, slots.clamp(max=n_slots - 1)]
    return torch.where(slots < n_slots, inside, torch.tensor(beyond))


def _without(mask: object, cut: torch.Tensor, causal: torch.Tensor) -> torch.Tensor:
    """The attention mask (samples, 1, queries, keys) with `cut` blocked; None stands for the causal mask."""
    if mask is None:
        return causal & ~cut
    assert isinstance(mask, torch.Tensor)
    assert mask.ndim == 4
    if mask.dtype == torch.bool:
        return mask & ~cut
    return mask.masked_fill(cut, torch.finfo(mask.dtype).min)
