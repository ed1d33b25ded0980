"""Interventions in a model's forward: attention blocks, and vectors read at some points and written at them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar, cast, get_args

import torch

from actstore.errors import ActstoreError, nearest
from actstore_extract.families import Batch, Model
from actstore_extract.forward.masked import masked
from actstore_extract.forward.points import at_point, prompts, residual
from actstore_extract.forward.slots import role_slots
from actstore_extract.forward.tap import check_attention, tapped
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

    In mode "pre" the other keys share the weight (scores of -inf before the softmax), and where there are none all
    weights are zero; in mode "post" it is lost (zeros after the softmax, as in the Narrow Gate paper).
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
            hint = nearest(name, known, f"it has {', '.join(known)}")
            raise InterventionError(f"an attention block has no {name!r}{hint}")
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
    """Attention blocks that belong to a model itself, and the layer at which it puts the image in."""

    blocks: tuple[Block, ...]
    inject: int = 0

    @contextmanager
    def held(self, model: Model, batch: Batch) -> Iterator[None]:
        """Inside, forwards of the batch run without what is blocked, and with the image from its layer on."""
        before = [Block((parse_role("all"),), (parse_role("image"),), tuple(range(self.inject)))] if self.inject else []
        with block_attention(model, batch, [*self.blocks, *before]), _injected(model, batch, self.inject):
            yield

    def facts(self) -> list[str]:
        """What the run card says of it."""
        return [str(block) for block in self.blocks]


@contextmanager
def _injected(model: Model, batch: Batch, layer: int) -> Iterator[None]:
    """In forwards of the batch, what block 0 is given at the image's positions is given to block `layer`.

    Whatever reads or writes the residual stream there comes after.
    """
    slots, kept = role_slots(batch, [parse_role("image")], 0), list[torch.Tensor]()
    if not layer or not slots.any():
        yield
        return
    with prompts(model) as prompt:  # tokens that follow read it in the cache

        def keep(x: torch.Tensor) -> None:
            if prompt[0]:
                kept[:] = [residual(model, x, (len(batch), batch.n_slots))[slots.to(x.device)]]

        def put(x: torch.Tensor) -> torch.Tensor | None:
            if not prompt[0]:
                return None
            new = residual(model, x, (len(batch), batch.n_slots)).clone()
            new[slots.to(x.device)] = kept[0].to(x.device)
            return new

        with at_point(model, "residual", 0, keep), at_point(model, "residual", layer, put, first=True):
            yield


AnyModel = TypeVar("AnyModel", bound=Model)


def always_blocked(model: AnyModel, specs: Sequence[Mapping[str, object]]) -> AnyModel:
    """The model, which from now on is without this attention in every forward, such as {"queries": "text", ...}, and
    which an adapter that says so gives its image at a later layer."""
    if specs or model.inject:
        blocks = tuple(parse_block(spec, n_layers=model.n_layers) for spec in specs)
        check_blocks(model, blocks)
        model.always = Blocked(blocks, model.inject)
    return model


def own_blocks(model: Model) -> tuple[Block, ...]:
    """The attention blocks that belong to the model itself."""
    return model.always.blocks if isinstance(model.always, Blocked) else ()


@contextmanager
def block_attention(model: Model, batch: Batch, blocks: Sequence[Block], *, seed: int = 0) -> Iterator[None]:
    """Forwards of the batch run without what is blocked: before the softmax ("pre") or after it ("post").

    Holds for generation too: tokens that follow the prompt are blocked where the queries' role reaches its end. A query
    that is left no key is blind: the output of its attention is zero.
    """
    check_blocks(model, blocks)
    by_mask: list[tuple[int, Edit]] = []  # for all heads before the softmax, a mask does it in any attention there is
    by_weights: list[tuple[int, Edit]] = []
    for block in blocks:
        queries, keys = role_slots(batch, block.queries, seed), role_slots(batch, block.keys, seed)
        edit = Edit(queries, keys, block.mode, any(role.is_open for role in block.queries), block.heads)
        edits = by_mask if block.mode == "pre" and block.heads is None else by_weights
        edits += [(layer, edit) for layer in (range(model.n_layers) if block.layers is None else block.layers)]
    with (
        masked(model, by_mask) if by_mask else nullcontext(),
        tapped(model, by_weights) if by_weights else nullcontext(),
    ):
        yield


def check_blocks(model: Model, blocks: Sequence[Block]) -> None:
    """Raise InterventionError for a block that this model cannot have."""
    implementation = str(model.decoder.config._attn_implementation)
    if blocks and any(kind in implementation for kind in _MASKLESS):
        raise InterventionError(f"attention blocks need a mask, which {implementation!r} has not: choose sdpa or eager")
    for block in blocks:
        if block.heads is not None and model.n_heads and max(block.heads) >= model.n_heads:
            raise InterventionError(f"{block}: this model has heads 0 to {model.n_heads - 1}")
        check_attention(model, range(model.n_layers) if block.layers is None else block.layers)
