"""Residual streams of a batch, gathered on the device where they arise and copied to the host once.

`begin` launches the forward and the copies, and `Begun.result` waits for them: between the two a GPU is at work.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from weakref import WeakSet

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from actstore_extract.families import Batch, Model
from actstore_extract.forward.attention import AttentionSelection, CapturedAttention, Columns
from actstore_extract.forward.kv import KeysValues
from actstore_extract.forward.points import CaptureError, at_point, residual
from actstore_extract.forward.tap import AttentionError, Reader, attention_modules, attention_of, tapped
from actstore_extract.transfers import Landing, sent

__all__ = ["Begun", "CaptureError", "Captured", "NotFiniteError", "Selection", "begin", "capture", "last_tokens_only"]


_PROVEN: WeakSet[Model] = WeakSet()  # whose forward is known to come by each residual point once


class NotFiniteError(CaptureError):
    """A vector holds inf or NaN; `sample_ids` names the samples."""

    def __init__(self, sample_ids: Sequence[str], layer: int, what: str) -> None:
        names = ", ".join(sample_ids[:3]) + (", ..." if len(sample_ids) > 3 else "")
        super().__init__(f"inf or NaN in the {what} at layer {layer} of {names}: try another dtype, or leave them out")
        self.sample_ids = tuple(sample_ids)
        self.layer = layer


def _nowhere() -> NDArray[np.int64]:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Selection:
    """What to keep of one sample: its own unpadded positions (n,), sets of positions to average, and positions whose
    keys and values are kept."""

    positions: NDArray[np.int64]
    means: tuple[NDArray[np.int64], ...] = ()
    kv: NDArray[np.int64] = field(default_factory=_nowhere)


@dataclass(frozen=True)
class Captured:
    """One batch on the host.

    `residual` (layers, rows, d) in the model's dtype, rows sample by sample as selected; `means` (layers, n, d)
    float32, sample by sample; `next_logits` (samples, vocabulary) float32 after each sample's last token, or None;
    `attention` of the text, or None; `keys` and `values` (blocks, rows, key heads * head width), sample by sample as
    selected, or None.
    """

    residual: torch.Tensor
    means: torch.Tensor
    next_logits: torch.Tensor | None
    attention: CapturedAttention | None = None
    keys: torch.Tensor | None = None
    values: torch.Tensor | None = None


class Begun:
    """A forward that was launched, with what it leaves on its way to the host."""

    def __init__(
        self,
        batch: Batch,
        taps: "_Taps",
        kv: KeysValues,
        columns: Columns | None,
        logits: torch.Tensor | None,
        *,
        layers: Sequence[int],
        blocks: Sequence[int],
        n_layers: int,
    ) -> None:
        self.sample_ids, self.layers, self.n_layers = batch.sample_ids, layers, n_layers
        self.landing = Landing()
        kept = [
            ("residual stream", taps.residual, taps.row_owner, layers),
            ("mean residual stream", taps.means, taps.mean_owner, layers),
            *((kind, x, kv.owner, blocks) for kind, x in kv.kept.items()),
        ]
        self.finite = [(what, self.landing.take(_finite(x)), owner, at) for what, x, owner, at in kept]
        self.vectors = {what: self.landing.take(x) for what, x, _, _ in kept}
        self.logits = None if logits is None else self.landing.take(logits)
        self.columns = columns
        if columns is not None:
            columns.land(self.landing)

    def result(self) -> Captured:
        """What was selected, on the host; NotFiniteError when a selected vector holds inf or NaN."""
        self.landing.wait()
        for what, finite, owner, at in self.finite:
            self._check(what, finite, owner, at)
        if self.logits is not None and self.logits.isnan().any():
            bad = self.logits.isnan().any(-1).nonzero().flatten().tolist()
            raise NotFiniteError([self.sample_ids[i] for i in bad], self.n_layers, "next-token logits")
        return Captured(
            self.vectors["residual stream"],
            self.vectors["mean residual stream"],
            self.logits,
            None if self.columns is None else self._attention(self.columns),
            self.vectors.get("keys"),
            self.vectors.get("values"),
        )

    def _check(self, what: str, finite: torch.Tensor, owner: NDArray[np.intp], layers: Sequence[int]) -> None:
        """NotFiniteError unless every vector (layers, rows) is finite; `owner` (rows,) is whose it is."""
        if not finite.all():
            place, rows = next((i, (~row).nonzero().flatten()) for i, row in enumerate(finite) if not row.all())
            owners = np.unique(owner[rows.numpy()])
            raise NotFiniteError([self.sample_ids[i] for i in owners], layers[place], what)

    def _attention(self, columns: Columns) -> CapturedAttention:
        broken = columns.broken()
        if broken is not None:
            place, samples = broken
            raise NotFiniteError([self.sample_ids[i] for i in samples], self.layers[place], "attention")
        return columns.result()


def begin(
    model: Model,
    batch: Batch,
    selections: Sequence[Selection],
    *,
    layers: Sequence[int],
    next_token: bool = False,
    attention: AttentionSelection | None = None,
    blocks: Sequence[int] = (),
) -> Begun:
    """Launch one forward that keeps the selected vectors at residual points `layers` (0: embeddings, L: before the
    final norm).

    With `attention` also that of the text, in the blocks that read those points; with `blocks` also the selected keys
    and values there. The forward ends at the last layer wanted, unless the next token is wanted too, or it is the first
    of the model, which has to come by each of its points once. What padding holds is never read.
    """
    wanted = _checked(model, layers)
    is_proven = model in _PROVEN
    taps = _Taps(model, batch, selections, layers=list(wanted))
    columns = None if attention is None else Columns(model, batch, attention, n_layers=len(wanted))
    kv = KeysValues(batch, [_inside(batch, i, each.kv) for i, each in enumerate(selections)], n_blocks=len(blocks))
    with ExitStack() as hooks:
        for layer, place in wanted.items():
            hooks.enter_context(at_point(model, "residual", layer, taps.reader(place)))
        for layer in () if is_proven else set(range(model.n_layers + 1)).difference(wanted):
            hooks.enter_context(at_point(model, "residual", layer, taps.passer(layer)))
        readers: list[tuple[int, Reader]] = []
        if columns is not None:
            readers += [(layer, columns.reader(wanted[layer])) for layer in _attending(model, wanted)]
        if len(kv.slots):
            readers += [(block, kv.reader(place)) for place, block in enumerate(blocks)]
        if readers:
            hooks.enter_context(tapped(model, readers))
        if next_token or (not is_proven and model.head is not None):
            hooks.enter_context(last_tokens_only(model, batch))
        if not next_token and wanted and is_proven:
            last = max([*wanted, *(block + 1 for block in blocks)])
            hooks.enter_context(_end(model, last, with_attention=last in dict(readers)))
        logits = _run(model, batch, next_token=next_token)
    taps.check()
    _PROVEN.add(model)
    return Begun(batch, taps, kv, columns, logits, layers=list(wanted), blocks=list(blocks), n_layers=model.n_layers)


def capture(
    model: Model,
    batch: Batch,
    selections: Sequence[Selection],
    *,
    layers: Sequence[int],
    next_token: bool = False,
    attention: AttentionSelection | None = None,
    blocks: Sequence[int] = (),
) -> Captured:
    """What `begin` launches, waited for; NotFiniteError when a selected vector holds inf or NaN."""
    options = {"layers": layers, "next_token": next_token, "attention": attention, "blocks": blocks}
    return begin(model, batch, selections, **options).result()  # type: ignore[arg-type]


class _Enough(Exception):  # noqa: N818
    """Nothing more of this forward is wanted: a signal, not an error."""


def _stop(*_: object) -> None:
    raise _Enough


def _attending(model: Model, layers: Iterable[int]) -> list[int]:
    """Those of the layers whose block has attention; AttentionError where none of several blocks has."""
    blocks = [layer for layer in layers if layer < model.n_layers]
    modules = attention_modules(model) if blocks else []
    found = [layer for layer in blocks if modules[layer] is not None]
    if blocks and not found:
        raise AttentionError(
            f"blocks {blocks} of {type(model.decoder).__name__} have no attention to read; those that have are "
            f"{[i for i, module in enumerate(modules) if module is not None]}"
        )
    return found


@contextmanager
def _end(model: Model, layer: int, *, with_attention: bool) -> Iterator[None]:
    """The forward ends at residual point `layer`, or after the attention that reads it."""
    if not with_attention:
        with at_point(model, "residual", layer, _stop):
            yield
        return
    handle = attention_of(model, layer).register_forward_hook(_stop)
    try:
        yield
    finally:
        handle.remove()


def _run(model: Model, batch: Batch, *, next_token: bool) -> torch.Tensor | None:
    """Logits (samples, vocabulary) float32 at the last slot, where they are wanted."""
    try:
        logits = model(batch).logits
    except _Enough:
        return None
    if not next_token:
        return None
    assert logits is not None
    return logits[:, -1].float()


def _checked(model: Model, layers: Sequence[int]) -> dict[int, int]:
    """Layer -> its place in the result."""
    for layer in layers:
        if not 0 <= layer <= model.n_layers:
            raise CaptureError(f"layer {layer} is out of range: this model has residual points 0 to {model.n_layers}")
    if len(set(layers)) < len(layers):
        raise CaptureError(f"layers {list(layers)}: each may be named once")
    return {layer: place for place, layer in enumerate(layers)}


@contextmanager
def last_tokens_only(model: Model, batch: Batch) -> Iterator[None]:
    """The head sees each sample's own last token alone, wherever padding put it: (samples, 1, d)."""
    head = model.head
    if head is None:
        raise CaptureError(f"{type(model.module).__name__} has no language-model head, so no next token")
    last = torch.from_numpy(batch.offset + [layout.length - 1 for layout in batch.layouts])

    def hook(_: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        x = args[0]
        return (x[torch.arange(len(x), device=x.device), sent(last, x.device)][:, None], *args[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class _Taps:
    """Where a forward leaves the selected vectors: one tensor for all layers, on the device of the first."""

    residual: torch.Tensor  # (layers, rows, d)
    means: torch.Tensor  # (layers, means, d) float32

    def __init__(self, model: Model, batch: Batch, selections: Sequence[Selection], *, layers: Sequence[int]) -> None:
        if len(selections) != len(batch):
            raise CaptureError(f"{len(selections)} selections for {len(batch)} samples")
        self.model, self.layers, self.seen = model, layers, dict.fromkeys(layers, 0)
        self.slots = len(batch), batch.n_slots
        rows = [_rows(batch, i, selection.positions) for i, selection in enumerate(selections)]
        pools = [_rows(batch, i, mean) for i, selection in enumerate(selections) for mean in selection.means]
        if any(not len(pool) for pool in pools):
            raise CaptureError("a mean over no positions was asked for")
        self.row_owner = np.repeat(np.arange(len(batch)), [len(at) for at in rows])
        self.mean_owner = np.repeat(np.arange(len(batch)), [len(selection.means) for selection in selections])
        self.rows = torch.from_numpy(np.concatenate([*rows, np.empty(0, np.int64)]))
        self.pools = torch.from_numpy(np.concatenate([*pools, np.empty(0, np.int64)]))
        self.pool_sizes = [len(pool) for pool in pools]
        self._allocate(torch.empty(0))
        self.allocated = False  # the dtype and the device are those of the first input seen

    def _allocate(self, x: torch.Tensor) -> None:
        """Room for what `x` is like, and the indices beside it."""
        n_layers, d_model = len(self.layers), self.model.d_model
        self.residual = x.new_full((n_layers, len(self.rows), d_model), torch.nan)
        self.means = x.new_full((n_layers, len(self.pool_sizes), d_model), torch.nan, dtype=torch.float32)
        self.rows, self.pools = sent(self.rows, x.device), sent(self.pools, x.device)

    def reader(self, place: int) -> Callable[[torch.Tensor], None]:
        """What gathers one layer's input (samples, slots, d)."""

        def read(x: torch.Tensor) -> None:
            self.seen[self.layers[place]] += 1
            x = residual(self.model, x, self.slots)
            if not self.allocated:
                self._allocate(x)
                self.allocated = True
            flat = x.reshape(-1, x.shape[-1])
            self.residual[place] = flat[self.rows.to(x.device)]
            parts = torch.split(flat[self.pools.to(x.device)], self.pool_sizes) if self.pool_sizes else ()
            for i, part in enumerate(parts):  # float32 sums: a bfloat16 mean of a thousand tokens stops moving
                self.means[place, i] = part.mean(0, dtype=torch.float32)

        return read

    def passer(self, layer: int) -> Callable[[torch.Tensor], None]:
        """What looks on where nothing is gathered."""
        self.seen[layer] = 0

        def note(x: torch.Tensor) -> None:
            self.seen[layer] += 1
            residual(self.model, x, self.slots)

        return note

    def check(self) -> None:
        """CaptureError unless the forward came by each point once."""
        for layer, times in self.seen.items():
            if times != 1:
                raise CaptureError(
                    f"{type(self.model.module).__name__} came by residual point {layer} {times} times in one forward: "
                    "which of them is its residual stream is not known"
                )


def _finite(kept: torch.Tensor) -> torch.Tensor:
    """Whether each vector of kept (layers, rows, d) is finite (layers, rows); a layer at a time, for the memory."""
    return torch.stack([x.isfinite().all(-1) for x in kept]) if len(kept) else torch.ones(0, 0, dtype=torch.bool)


def _rows(batch: Batch, sample: int, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flattened rows of a sample's positions, none of them padding."""
    return batch.rows(sample, _inside(batch, sample, at))


def _inside(batch: Batch, sample: int, at: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions, none of them outside the sample."""
    length = batch.layouts[sample].length
    if len(at) and (at.min() < 0 or at.max() >= length):
        raise CaptureError(f"{batch.sample_ids[sample]}: a position outside its {length} tokens was asked for")
    return at
