"""Interventions in a model's forward: attention blocks, and vectors read at some points and written at them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast, get_args

import torch
from torch import nn
from transformers import Cache

from actstore.errors import ActstoreError, nearest
from actstore_extract.families import Batch, Model
from actstore_extract.forward.slots import at_slots, role_slots
from actstore_extract.forward.tap import attention_modules, tapped, window
from actstore_extract.forward.weights import Edit, Mode
from actstore_extract.roles import Role, parse_role

__all__ = [
    "Block",
    "Blocked",
    "InterventionError",
    "always_blocked",
    "block_attention",
    "check_blocks",
    "own_blocks",
    "parse_block",
]

_MASKLESS = ("flash", "flex", "paged")


class InterventionError(ActstoreError):
    """The intervention is not one this model can have."""


@dataclass(frozen=True)
class Block:
    """Attention that must not happen: these queries give no weight to these keys, in `layers` and `heads` (None: all).

    In mode "pre" the other keys share the weight (scores of -inf before the softmax); in mode "post" it is lost
    (zeros after the softmax, as in the Narrow Gate paper).
    """

    queries: tuple[Role, ...]
    keys: tuple[Role, ...]
    layers: tuple[int, ...] | None = None
    mode: Mode = "pre"
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        queries, keys = ("+".join(role.name for role in roles) for roles in (self.queries, self.keys))
        where = "all layers" if self.layers is None else f"layers {list(self.layers)}"
        heads = "" if self.heads is None else f", heads {list(self.heads)}"
        return f"{queries} -> {keys}, {where}{heads}" + (", after the softmax" if self.mode == "post" else "")


def parse_block(spec: Mapping[str, object], *, n_layers: int, mode: Mode = "pre") -> Block:
    """The block that {"queries": roles, "keys": roles, "layers": [...], "heads": [...], "mode": "pre"} describes.

    Roles are a name or a list; `mode` is what a spec that does not say has.

    >>> print(parse_block({"queries": "text", "keys": ["boi", "image"]}, n_layers=32))
    text -> boi+image, all layers
    """
    known = ["queries", "keys", "layers", "heads", "mode"]
    for name in spec:
        if name not in known:
            raise InterventionError(f"an attention block has no {name!r}{nearest(name, known)}; it has {known}")
    if not spec.keys() >= {"queries", "keys"}:
        raise InterventionError(f"an attention block needs queries and keys, not only {sorted(spec)}")
    return Block(
        _roles(spec["queries"]),
        _roles(spec["keys"]),
        _layers(spec.get("layers"), n_layers),
        _mode(spec.get("mode", mode)),
        _heads(spec.get("heads")),
    )


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


def _heads(value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    heads = tuple(value) if isinstance(value, list | tuple | range) else ()
    if not heads or not all(isinstance(head, int) and head >= 0 for head in heads):
        raise InterventionError(f"heads {value!r}: a list of head numbers from 0 is wanted")
    return heads


def _mode(value: object) -> Mode:
    if value not in get_args(Mode):
        raise InterventionError(f'mode {value!r}: it is "pre" or "post" (before or after the softmax)')
    return cast(Mode, value)


@dataclass(frozen=True)
class Blocked:
    """Attention blocks that belong to a model itself."""

    blocks: tuple[Block, ...]

    def held(self, model: Model, batch: Batch) -> AbstractContextManager[None]:
        """Inside, forwards of the batch run without what is blocked."""
        return block_attention(model, batch, self.blocks)

    def facts(self) -> list[str]:
        """What the run card says of it."""
        return [str(block) for block in self.blocks]


AnyModel = TypeVar("AnyModel", bound=Model)


def always_blocked(model: AnyModel, specs: Sequence[Mapping[str, object]]) -> AnyModel:
    """The model, which from now on is without this attention in every forward, such as {"queries": "text", ...}."""
    if specs:
        model.always = Blocked(tuple(parse_block(spec, n_layers=model.n_layers) for spec in specs))
    return model


def own_blocks(model: Model) -> tuple[Block, ...]:
    """The attention blocks that belong to the model itself."""
    return model.always.blocks if isinstance(model.always, Blocked) else ()


@contextmanager
def block_attention(model: Model, batch: Batch, blocks: Sequence[Block], *, seed: int = 0) -> Iterator[None]:
    """Forwards of the batch run without what is blocked: before the softmax ("pre") or after it ("post").

    Holds for generation too: tokens that follow the prompt are blocked where the queries' role reaches its end.
    """
    check_blocks(model, blocks)
    edits: list[tuple[int, Edit]] = []
    with ExitStack() as hooks:
        for block in blocks:
            queries, keys = role_slots(batch, block.queries, seed), role_slots(batch, block.keys, seed)
            edit = Edit(queries, keys, block.mode, any(role.is_open for role in block.queries), block.heads)
            layers = range(model.n_layers) if block.layers is None else block.layers
            if block.mode == "post" or block.heads is not None:
                edits += [(layer, edit) for layer in layers]
                continue
            for layer in layers:  # for all heads before the softmax, a mask does it in any attention there is
                module = attention_modules(model)[layer]
                hooks.callback(module.register_forward_pre_hook(_mask_hook(edit), with_kwargs=True).remove)
        if edits:
            hooks.enter_context(tapped(model, edits))
        yield


def check_blocks(model: Model, blocks: Sequence[Block]) -> None:
    """Raise InterventionError for a block that this model cannot have."""
    implementation = str(model.decoder.config._attn_implementation)
    if blocks and any(kind in implementation for kind in _MASKLESS):
        raise InterventionError(f"attention blocks need a mask, which {implementation!r} has not: choose sdpa or eager")
    for block in blocks:
        if block.heads is not None and max(block.heads) >= model.n_heads:
            raise InterventionError(f"{block}: this model has heads 0 to {model.n_heads - 1}")


_Hook = Callable[[nn.Module, tuple[object, ...], dict[str, object]], tuple[tuple[object, ...], dict[str, object]]]


def _mask_hook(edit: Edit) -> _Hook:
    """A pre-hook of an attention module that takes the edit's queries x keys out of its mask."""

    def hook(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        assert isinstance(hidden, torch.Tensor)
        query_slots, key_slots = window(module, cast(Cache | None, kwargs.get("past_key_values")), hidden.shape[1])
        cut = (
            at_slots(edit.queries, query_slots, beyond=edit.is_open)[:, None, :, None]
            & at_slots(edit.keys, key_slots, beyond=False)[:, None, None]
        ).to(hidden.device)
        causal = (key_slots <= query_slots[:, None]).to(hidden.device)
        return args, {**kwargs, "attention_mask": _without(kwargs.get("attention_mask"), cut, causal)}

    return hook


def _without(mask: object, cut: torch.Tensor, causal: torch.Tensor) -> torch.Tensor:
    """The attention mask (samples, 1, queries, keys) with `cut` blocked; None stands for the causal mask."""
    if mask is None:
        return causal & ~cut
    assert isinstance(mask, torch.Tensor)
    assert mask.ndim == 4
    if mask.dtype == torch.bool:
        return mask & ~cut
    return mask.masked_fill(cut, torch.finfo(mask.dtype).min)
