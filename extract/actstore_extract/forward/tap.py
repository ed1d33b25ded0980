"""A tap into a decoder's attention: readers and edits beside the model's own kernel.

A decoder inside `tapped` runs under an attention function and a mask function of ours that call the ones it had: its
kernel, its mask and, where nothing is edited, every bit of its output stay as they were.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast, runtime_checkable

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from actstore.errors import ActstoreError
from actstore_extract.families import Model
from actstore_extract.forward.slots import at_slots
from actstore_extract.forward.weights import Cut, Edit, Rows

__all__ = ["AttentionError", "Reader", "Slotted", "attention_modules", "tapped", "window"]

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_KERNELS = ("sdpa", "eager")
_PREFIX = "actstore-"
_TAP = "_actstore_tap"
_UNKNOWN = ("position_bias", "s_aux")  # arguments that change the weights in ways the row arithmetic does not know


class AttentionError(ActstoreError):
    """This model's attention cannot be read or edited."""


Reader = Callable[[Rows], None]


@runtime_checkable
class Slotted(Protocol):
    """In the place of a cache, what holds the same slots several times over."""

    def slots(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of the n queries and of the keys in this forward."""


def attention_modules(model: Model) -> list[nn.Module]:
    """The attention module of each block; AttentionError where one has none, or several."""
    found = [
        next((getattr(block, name) for name in _ATTENTION if hasattr(block, name)), None) for block in model.layers
    ]
    missing = [layer for layer, module in enumerate(found) if module is None or isinstance(module, nn.ModuleList)]
    if missing:  # a list of several, as LongCat-Flash has it, is never called: hooks on it would change nothing
        raise AttentionError(f"blocks {missing} of {type(model.decoder).__name__} have no attention to intervene in")
    return [module for module in found if module is not None]


def window(layer: int, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[torch.Tensor, torch.Tensor]:
    """Slots of the queries and of the keys in a forward of this block's attention, by what the attention is given.

    Models call the cache differently, so it is known by what it is; that of a sliding window drops its first keys.
    AttentionError where there is one that does not tell.
    """
    hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    assert isinstance(hidden, torch.Tensor)
    n = hidden.shape[1]
    past = next((one for one in (*args, *kwargs.values()) if isinstance(one, Cache | Slotted)), None)
    if isinstance(past, Slotted):
        return past.slots(n)
    if past is None:
        for name, value in kwargs.items():
            if ("past" in name or "cache" in name) and isinstance(value, tuple | list):
                raise AttentionError(
                    f"block {layer} is given {name}, a {type(value).__name__}: which keys does it hold?"
                )
        return torch.arange(n), torch.arange(n)
    if past.layer_class_to_replicate is None and layer >= len(past.layers):
        raise AttentionError(f"block {layer} attends to the keys of another block, and its cache does not say to which")
    first = int(past.get_seq_length(layer))
    n_keys, first_key = past.get_mask_sizes(n, layer)
    return torch.arange(first, first + n), torch.arange(first_key, first_key + n_keys)


@contextmanager
def tapped(model: Model, taps: Iterable[tuple[int, Reader | Edit]]) -> Iterator[None]:
    """Inside, readers see the attention of their block (0-based) in every forward, and edits change it.

    Readers see edited weights. Contexts may be nested. AttentionError for a model whose attention does not run
    through Transformers' interface, or whose kernel takes no mask.
    """
    modules = attention_modules(model)
    with ExitStack() as undo:
        undo.enter_context(_switched(model))
        for layer, tap in taps:
            undo.enter_context(_tap(modules[layer], layer, tap))
        yield


@contextmanager
def _switched(model: Model) -> Iterator[None]:
    """The text decoder, and nothing else, runs under our functions around those it has."""
    config = model.decoder.config
    before = str(config._attn_implementation)
    if before.startswith(_PREFIX):
        yield
        return
    if before not in _KERNELS:
        raise AttentionError(f"attention under {before!r} cannot be read or edited: choose sdpa or eager")
    name = _PREFIX + before
    AttentionInterface.register(name, _around(before))
    # Without a mask function of the same name, padding and sliding windows would silently be ignored.
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
    try:
        model.decoder.set_attn_implementation({"": name})
        yield
    finally:
        model.decoder.set_attn_implementation({"": before})


@contextmanager
def _tap(module: nn.Module, layer: int, what: Reader | Edit) -> Iterator[None]:
    """The module's tap holds a reader or an edit; the first one brings the tap, the last one takes it away."""
    with ExitStack() as undo:
        tap = getattr(module, _TAP, None)
        if tap is None:
            tap = _Tap(layer)
            setattr(module, _TAP, tap)
            undo.callback(delattr, module, _TAP)
            undo.callback(module.register_forward_pre_hook(tap.before, with_kwargs=True).remove)
            undo.callback(module.register_forward_hook(tap.after).remove)
        held: list[Reader] | list[Edit] = tap.edits if isinstance(what, Edit) else tap.readers
        held.append(what)  # type: ignore[arg-type]
        undo.callback(held.pop)
        yield


class _Tap:
    """What to read and to edit in one attention module, and where its forward stands."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.readers: list[Reader] = []
        self.edits: list[Edit] = []
        self.slots = torch.empty(0), torch.empty(0)
        self.ran = False

    def before(self, _: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        """Which slots this forward is about: known only as long as the cache does not hold its keys."""
        self.slots = window(self.layer, args, kwargs)
        self.ran = False

    def after(self, module: nn.Module, *_: object) -> None:
        if not self.ran:
            raise AttentionError(
                f"{type(module).__name__} does not run its attention through Transformers' attention interface, "
                "so it can be neither read nor edited"
            )

    def run(self, rows: Rows, output: torch.Tensor) -> torch.Tensor:
        """The output after the edits; the readers have read."""
        self.ran = True
        for edit in self.edits:
            rows.cuts.append(_cut(edit, rows, *self.slots))
        for read in self.readers:
            read(rows)
        return rows.edited(output)


def _cut(edit: Edit, rows: Rows, query_slots: torch.Tensor, key_slots: torch.Tensor) -> Cut:
    n_heads = rows.query.shape[1]
    heads = torch.zeros(n_heads, dtype=torch.bool)
    heads[list(range(n_heads) if edit.heads is None else edit.heads)] = True
    queries = at_slots(edit.queries, query_slots, beyond=edit.is_open)
    keys = at_slots(edit.keys, key_slots, beyond=False)
    return Cut(queries.to(rows.device), keys.to(rows.device), heads.to(rows.device), edit.mode)


_Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]


def _around(kernel: str) -> _Attention:
    """An attention function that runs the kernel and then the module's tap, if it has one."""

    def forward(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        output, weights = _bulk(kernel, module)(module, query, key, value, attention_mask, **kwargs)
        tap = getattr(module, _TAP, None)
        if tap is None:
            return output, weights
        return tap.run(_rows(module, query, key, value, attention_mask, tap.slots, kwargs), output), weights

    return forward


def _bulk(kernel: str, module: nn.Module) -> _Attention:
    if kernel != "eager":
        return cast(_Attention, ALL_ATTENTION_FUNCTIONS[kernel])
    # Every model file has an eager attention of its own: some cap their scores.
    return cast(_Attention, sys.modules[type(module).__module__].eager_attention_forward)


def _rows(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    slots: tuple[torch.Tensor, torch.Tensor],
    kwargs: dict[str, object],
) -> Rows:
    for name in _UNKNOWN:
        if kwargs.get(name) is not None:
            raise AttentionError(f"{type(module).__name__} has {name}, which this version cannot read or edit")
    if (query.shape[2], key.shape[2]) != tuple(map(len, slots)):
        raise AttentionError(
            f"{type(module).__name__} has {query.shape[2]} queries and {key.shape[2]} keys where {len(slots[0])} and "
            f"{len(slots[1])} are known: its cache is not one that can be counted"
        )
    scaling, causal = kwargs.get("scaling"), kwargs.get("is_causal")
    return Rows(
        query,
        key,
        value,
        mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else cast(float, scaling),
        softcap=cast(float | None, kwargs.get("softcap")),
        is_causal=bool(getattr(module, "is_causal", True) if causal is None else causal),
        query_slots=slots[0].to(query.device),
        key_slots=slots[1].to(query.device),
    )
