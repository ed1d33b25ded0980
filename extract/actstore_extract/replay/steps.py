"""A model's own forward taken apart: what it gives each of its blocks, and what it makes of the last one's output."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import cast
from weakref import WeakSet

import torch
from torch import nn
from transformers import DynamicCache

from actstore_extract.families import Model
from actstore_extract.families.anatomy import several
from actstore_extract.forward.points import at_point
from actstore_extract.forward.tap import AttentionError, attention_modules
from actstore_extract.replay.errors import ReplayError

__all__ = ["Forward", "Step"]

ROUNDING = 0.01  # relative, that a forward gone on with may differ by in the coarsest number type
_PROVEN: WeakSet[Model] = WeakSet()  # models whose forward is known to be one that can be gone on with
_CACHES = ("past_key_values", "layer_past")  # what blocks call it


class _Enough(Exception):  # noqa: N818
    """Nothing more of this forward is wanted: a signal, not an error."""


@dataclass(frozen=True)
class Step:
    """What the model's forward gives one block beside the residual stream: rotations, masks, positions."""

    args: tuple[object, ...]
    kwargs: Mapping[str, object]

    def behind(self, cache: object, **others: object) -> "Step":
        """The same with a cache, under the name that the block has for it, and with others of its arguments.

        ReplayError for a block that is given none.
        """
        name = next((name for name in _CACHES if name in self.kwargs), None)
        if name is None:
            raise ReplayError(f"its blocks are given no {' or '.join(_CACHES)}: replay whole forwards (--method full)")
        return Step(self.args, {**self.kwargs, **others, name: cache})


class Forward:
    """The forward of a model on a residual stream (samples, slots, d) in place of tokens.

    Blocks keep their index: Qwen-2 and Gemma-2 choose masks by it, so that a slice of the blocks is another model.
    """

    def __init__(self, model: Model) -> None:
        if not model.kind.takes_position_ids(model.module):
            raise ReplayError(
                f"{type(model.module).__name__} takes no positions, or makes positions of its own, of several axes; "
                "its forward cannot be gone on with from stored residual streams"
            )
        for name, child in model.decoder.named_children():
            if isinstance(child, nn.Embedding) and child is not model.module.get_input_embeddings():
                raise ReplayError(
                    f"{type(model.module).__name__} adds its {name} to whatever enters its first block; "
                    "its forward cannot be gone on with from stored residual streams"
                )
        if (streams := several(model.decoder.config)) is not None:
            raise ReplayError(
                f"{type(model.module).__name__} carries several residual streams, of which {streams} is kept: "
                "its forward cannot be gone on with from one"
            )
        self.model = model
        self.device = model.device
        if model not in _PROVEN:
            self._prove()
            _PROVEN.add(model)

    @torch.no_grad()
    def _prove(self) -> None:
        """ReplayError unless the forward reads in its first block what it is given as embeddings and, gone on with from
        a later one, comes to the same; of a model whose blocks read their weights when they run the first alone."""
        name, n_layers = type(self.model.module).__name__, self.model.n_layers
        given = torch.linspace(-1, 1, 2 * self.model.d_model, device=self.device).view(1, 2, -1).to(self.model.dtype)
        is_lent = any(weight.is_meta for weight in self.model.layers[0].parameters())
        seen = self._seen(given, [0] if is_lent else range(n_layers + 1))
        if not torch.equal(seen[0], given):
            raise ReplayError(
                f"{name} changes what is given to its first block; "
                "its forward cannot be gone on with from stored residual streams"
            )
        for layer in () if is_lent else sorted({1, n_layers // 2, n_layers - 1}):
            try:
                found, wanted = self.output(seen[layer], layer=layer).float(), seen[n_layers][:, -1].float()
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise ReplayError(f"{name} cannot be gone on with: its blocks hand on more than one tensor") from error
            if (found - wanted).norm() > ROUNDING * wanted.norm():
                raise ReplayError(
                    f"{name} gone on with from layer {layer} comes to something else: its blocks read more of those in "
                    "front than their residual stream"
                )

    def _seen(self, given: torch.Tensor, layers: Sequence[int]) -> dict[int, torch.Tensor]:
        """The residual streams at these layers of a forward on `given`, which ends at the last of them."""
        seen: dict[int, torch.Tensor] = {}

        def look(read: torch.Tensor, layer: int) -> None:
            seen[layer] = read
            if layer == layers[-1]:
                raise _Enough

        with ExitStack() as hooks, suppress(_Enough):
            for layer in layers:
                hooks.enter_context(at_point(self.model, "residual", layer, partial(look, layer=layer)))
            self._run(given, past=0)
        return seen

    def check_cached(self) -> None:
        """ReplayError for a model with blocks that keep more of what was in front than keys and values."""
        try:
            without = [i for i, module in enumerate(attention_modules(self.model)) if module is None]
        except AttentionError as error:
            raise ReplayError(f"{error}: replay whole forwards (--method full)") from error
        if without:
            raise ReplayError(
                f"blocks {without} of {type(self.model.decoder).__name__} have no attention, so keys and values are "
                "not all that they read of the tokens in front: replay whole forwards (--method full)"
            )

    @torch.no_grad()
    def logits(self, x: torch.Tensor, *, layer: int) -> torch.Tensor:
        """Next-token logits (samples, vocabulary) after residual streams that enter block `layer` (L: the norm)."""
        with self._skipping(range(layer)):
            return self._run(x, past=0)

    @torch.no_grad()
    def output(self, x: torch.Tensor, *, layer: int) -> torch.Tensor:
        """Vectors (samples, d) of the last slots before the final norm, after residual streams that enter `layer`."""
        seen: list[torch.Tensor] = []

        def look(read: torch.Tensor) -> None:
            seen.append(read[:, -1])
            raise _Enough

        with (
            self._skipping(range(layer)),
            at_point(self.model, "residual", self.model.n_layers, look),
            suppress(_Enough),
        ):
            self._run(x, past=0)
        return seen[0]

    @torch.no_grad()
    def steps(self, n: int, *, past: int) -> list[Step]:
        """What each block is given for `n` slots behind `past` others whose keys and values are in a cache."""
        found: list[Step] = []
        with self._skipping(range(self.model.n_layers), found):
            self._run(self._zeros(n), past=past)
        return found

    def block(self, layer: int, x: torch.Tensor, step: Step) -> torch.Tensor:
        """The residual stream (samples, slots, d) behind one block."""
        found = self.model.layers[layer](x, *step.args, **step.kwargs)
        return cast(torch.Tensor, found[0] if self._in_tuples else found)

    def _zeros(self, n: int) -> torch.Tensor:
        return torch.zeros(1, n, self.model.d_model, dtype=self.model.dtype, device=self.device)

    def _run(self, x: torch.Tensor, *, past: int) -> torch.Tensor:
        n = x.shape[1]
        # Without a mask, positions that do not begin at 0 would be taken for several sequences in one row.
        mask = torch.ones(len(x), past + n, dtype=torch.long, device=x.device)
        positions = torch.arange(past, past + n, device=x.device).expand(len(x), n)
        cache = self._behind(past, x) if past else None
        logits = self.model.module(
            inputs_embeds=x,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        ).logits
        return cast(torch.Tensor, logits)[:, -1].float()

    def _behind(self, past: int, x: torch.Tensor) -> DynamicCache:
        """A cache that says it holds `past` slots: the masks are made by its length."""
        cache = DynamicCache()
        for layer in range(self.model.n_layers):
            nothing = x.new_zeros(len(x), 1, past, 1)
            cache.update(nothing, nothing, layer)
        return cache

    @cached_property
    def _in_tuples(self) -> bool:
        """Whether the blocks give their output in a tuple, as Chameleon's do."""
        seen: list[bool] = []

        def look(_: nn.Module, __: object, output: object) -> None:
            seen.append(isinstance(output, tuple))
            raise _Enough

        handle = self.model.layers[0].register_forward_hook(look)
        try:
            self._run(self._zeros(1), past=0)
        except _Enough:
            pass
        finally:
            handle.remove()
        return seen[0]

    @contextmanager
    def _skipping(self, layers: Sequence[int], found: list[Step] | None = None) -> Iterator[None]:
        """Inside, these blocks pass on what they get, and what they are given beside it goes into `found`."""
        in_tuples = self._in_tuples

        def skip(*args: object, **kwargs: object) -> object:
            first, others = (args[0], args[1:]) if args else (kwargs["hidden_states"], ())
            if found is not None:
                found.append(Step(others, {k: v for k, v in kwargs.items() if k != "hidden_states"}))
            return (first,) if in_tuples else first

        with ExitStack() as undo:
            for layer in layers:
                undo.enter_context(_instead(self.model.layers[layer], skip))
            yield


@contextmanager
def _instead(module: nn.Module, forward: object) -> Iterator[None]:
    """Inside, the module has another forward; one that was set on it before comes back."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before
