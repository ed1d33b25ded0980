"""A tap into a decoder's attention: readers and edits beside the model's own kernel.

Inside `tapped` whatever attention function Transformers hands out calls the one that it was, and then the tap of its
module. The implementation keeps its name, which some models look at before they apply their masks: the kernel, the mask
and, where nothing is edited, every bit of the output stay as they were.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Protocol, cast, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface, Cache
from transformers.cache_utils import CacheLayerMixin

from actstore.errors import ActstoreError
from actstore_extract.families import Model
from actstore_extract.forward.slots import at_slots
from actstore_extract.forward.weights import Cut, Edit, Rows

__all__ = [
    "KERNELS",
    "AttentionError",
    "Reader",
    "Slotted",
    "asks",
    "attention_modules",
    "attention_of",
    "check_attention",
    "run_in",
    "tapped",
    "window",
]

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
KERNELS = ("sdpa", "eager")
_TAP = "_actstore_tap"
# How far a kernel's output may be from what its weights say it is, relative: rounding, and not another arithmetic.
_ROUNDING = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.25}
_FOUND: WeakKeyDictionary[Model, list[nn.Module | None]] = WeakKeyDictionary()  # attention modules, by block
_PROVEN: WeakKeyDictionary[nn.Module, set[object]] = WeakKeyDictionary()


class AttentionError(ActstoreError):
    """This model's attention cannot be read or edited."""


Reader = Callable[[Rows], None]


@runtime_checkable
class Slotted(Protocol):
    """In the place of a cache, what holds the same slots several times over."""

    def slots(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Slots of the n queries and of the keys in this forward."""


def attention_modules(model: Model) -> list[nn.Module | None]:
    """The attention module of each block; None for one without, such as a convolution, a state space, or attention that
    is linear beside blocks whose attention is not.

    AttentionError where a block has several, where several share one, and where none has any.
    """
    if model not in _FOUND:
        _FOUND[model] = _attention_modules(model)
    return _FOUND[model]


def _attention_modules(model: Model) -> list[nn.Module | None]:
    found = [_attention(block, layer) for layer, block in enumerate(model.layers)]
    asking = [module for module in found if module is not None and asks(module)]
    if len(set(map(id, asking))) < len(asking):
        raise AttentionError(f"blocks of {type(model.decoder).__name__} share one attention, which can be none's alone")
    if not any(module is not None for module in found):
        raise AttentionError(f"no block of {type(model.decoder).__name__} has attention to intervene in")
    return [module if not asking or module in asking else None for module in found]


def attention_of(model: Model, layer: int) -> nn.Module:
    """The attention module of one block; AttentionError where it has none."""
    return check_attention(model, [layer])[0]


def check_attention(model: Model, layers: Iterable[int]) -> list[nn.Module]:
    """The attention modules of these blocks; AttentionError, with those that have one, for one that has none."""
    modules = attention_modules(model)
    found = {layer: modules[layer] for layer in layers}
    if without := [layer for layer, module in found.items() if module is None]:
        raise AttentionError(
            f"blocks {without} of {type(model.decoder).__name__} have no attention to intervene in; those that have "
            f"are {[i for i, module in enumerate(modules) if module is not None]}"
        )
    return [module for module in found.values() if module is not None]


def _attention(block: nn.Module, layer: int) -> nn.Module | None:
    """What a block calls its attention, or what in it asks Transformers for an attention function."""
    named = next((block._modules[name] for name in _ATTENTION if block._modules.get(name) is not None), block)
    assert named is not None
    asking = [module for module in named.modules() if asks(module)]
    if len(asking) > 1:  # LongCat-Flash has two, and its blocks call each
        raise AttentionError(f"block {layer} has {len(asking)} attentions, such as {type(asking[0]).__name__}")
    return asking[0] if asking else None if named is block else named


def asks(module: nn.Module) -> bool:
    """Whether the code of a module asks Transformers for its attention function."""
    return "get_interface" in inspect.unwrap(type(module).forward).__code__.co_names


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
    if (past.layer_class_to_replicate is None and layer >= len(past.layers)) or not _counts(past, layer):
        raise AttentionError(f"block {layer} attends to the keys of another block, and its cache does not say to which")
    first = int(past.get_seq_length(layer))
    n_keys, first_key = past.get_mask_sizes(n, layer)
    return torch.arange(first, first + n), torch.arange(first_key, first_key + n_keys)


def _counts(past: Cache, layer: int) -> bool:
    """Whether a cache counts what this block has seen; that of Gemma 3n does not for blocks that share keys."""
    return layer >= len(past.layers) or isinstance(past.layers[layer], CacheLayerMixin)


@contextmanager
def tapped(model: Model, taps: Iterable[tuple[int, Reader | Edit]]) -> Iterator[None]:
    """Inside, readers see the attention of their block (0-based) in every forward, and edits change it.

    Readers see edited weights. Contexts may be nested. AttentionError for a model whose attention does not run
    through Transformers' interface, or whose kernel takes no mask.
    """
    with ExitStack() as undo:
        undo.enter_context(_handed_on(model))
        for layer, tap in taps:
            module = attention_of(model, layer)
            undo.enter_context(_tap(module, layer, tap))
            undo.enter_context(run_in(model, layer, module))
        yield


@contextmanager
def run_in(model: Model, layer: int, module: nn.Module) -> Iterator[None]:
    """Inside, AttentionError in a forward of the block that does not call this module of it, where what is read would
    be nothing and what is edited would change nothing."""
    ran = [False]

    def note(_: nn.Module, *__: object) -> None:
        ran[0] = True

    def check(block: nn.Module, *_: object) -> None:
        if not ran[0]:
            raise AttentionError(f"block {layer}, a {type(block).__name__}, did not run its {type(module).__name__}")
        ran[0] = False

    handles = [module.register_forward_pre_hook(note), model.layers[layer].register_forward_hook(check)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _handed_on(model: Model) -> Iterator[None]:
    """Attention functions are handed out with the tap of their module behind them."""
    kernel = str(model.decoder.config._attn_implementation)
    if kernel not in KERNELS:
        raise AttentionError(f"attention under {kernel!r} cannot be read or edited: choose sdpa or eager")
    own = AttentionInterface.get_interface
    if own is _get_interface:
        yield
        return
    AttentionInterface.get_interface = _get_interface  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        AttentionInterface.get_interface = own  # type: ignore[method-assign]


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
    if edit.heads is not None and max(edit.heads) >= n_heads:
        raise AttentionError(f"heads {list(edit.heads)}: this block has heads 0 to {n_heads - 1}")
    heads = torch.zeros(n_heads, dtype=torch.bool)
    heads[list(range(n_heads) if edit.heads is None else edit.heads)] = True
    queries = at_slots(edit.queries, query_slots, beyond=edit.is_open)
    keys = at_slots(edit.keys, key_slots, beyond=False)
    return Cut(queries.to(rows.device), keys.to(rows.device), heads.to(rows.device), edit.mode)


_Attention = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
_OWN = AttentionInterface.get_interface


def _get_interface(interface: AttentionInterface, name: str, default: _Attention) -> _Attention:
    """The function that Transformers would hand out, with a module's tap behind it."""
    own = cast(_Attention, _OWN(interface, name, default))

    def forward(
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        output, weights = own(module, query, key, value, attention_mask, **kwargs)
        tap = getattr(module, _TAP, None)
        if tap is None:
            return output, weights
        rows = _rows(module, query, key, value, attention_mask, tap.slots, kwargs)
        _prove(module, own, rows, output)
        return tap.run(rows, output), weights

    return forward


def _prove(module: nn.Module, kernel: _Attention, rows: Rows, output: torch.Tensor) -> None:
    """AttentionError, in the first forward of a module, unless its kernel gives its weights times its values."""
    if kernel in _PROVEN.get(module, ()):
        return
    off = rows.off(output)
    if off > _ROUNDING[output.dtype]:
        raise AttentionError(
            f"{type(module).__name__} is no softmax over its queries, keys and mask (its output is off by {off:.2g}, "
            "relative), so it can be neither read nor edited"
        )
    if math.isfinite(off):
        _PROVEN.setdefault(module, set()).add(kernel)


def _rows(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    slots: tuple[torch.Tensor, torch.Tensor],
    kwargs: dict[str, object],
) -> Rows:
    if (query.shape[2], key.shape[2]) != tuple(map(len, slots)):
        raise AttentionError(
            f"{type(module).__name__} has {query.shape[2]} queries and {key.shape[2]} keys where {len(slots[0])} and "
            f"{len(slots[1])} are known: its keys are not the tokens one by one, or its cache cannot be counted"
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
        bias=cast(torch.Tensor | None, kwargs.get("position_bias")),
        sink=_sink(kwargs),
    )


def _sink(kwargs: Mapping[str, object]) -> torch.Tensor | None:
    """The attention sink: one score a head as GPT-OSS learns it, or one a query."""
    heads, queries = (cast(torch.Tensor | None, kwargs.get(name)) for name in ("s_aux", "sinks"))
    return queries if heads is None else heads.reshape(1, -1, 1, 1)
