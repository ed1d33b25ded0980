"""Points of a forward where vectors are read, and where those of another sample are written in their place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import nn
from transformers import Cache

from actstore_extract.families import Batch, Model
from actstore_extract.forward.tap import attention_modules
from actstore_extract.roles import Point

__all__ = ["hooked", "points", "reading", "writing"]

# What a point's module gets (samples, slots, d): the residual stream, or the normed one that attention reads.
_MODULES: Mapping[Point, Callable[[Model], list[nn.Module]]] = {
    "residual": lambda model: [*model.layers, model.norm],
    "attention-input": attention_modules,
}


def points(model: Model, point: Point) -> list[nn.Module]:
    """The modules whose input the point is, by layer."""
    return _MODULES[point](model)


@contextmanager
def reading(
    model: Model, rows: torch.Tensor, wanted: Sequence[tuple[Point, int]]
) -> Iterator[dict[tuple[Point, int], torch.Tensor]]:
    """In forwards without cache inside, the vectors of `rows` (n,) of the flattened batch are kept, (n, d) by point."""
    found: dict[tuple[Point, int], torch.Tensor] = {}
    with ExitStack() as hooks:
        for point, layer in wanted:

            def keep(x: torch.Tensor, key: tuple[Point, int] = (point, layer)) -> None:
                found[key] = x.reshape(-1, x.shape[-1])[rows.to(x.device)]

            hooks.enter_context(hooked(points(model, point)[layer], keep))
        yield found


@contextmanager
def writing(
    model: Model, batch: Batch, rows: torch.Tensor, vectors: Mapping[tuple[Point, int], torch.Tensor]
) -> Iterator[None]:
    """In forwards of the batch, `rows` (n,) of its flattened prompt are `vectors` (n, d) at each point.

    In generation that is in the prompt's own forward: what follows reads it in the cache. The residual stream itself
    is not written over: what reads it elsewhere sees it as it is.
    """
    prompt = [True]

    def before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:  # noqa: ARG001
        past = cast(Cache | None, kwargs.get("past_key_values"))
        prompt[0] = past is None or int(past.get_seq_length()) == 0

    with ExitStack() as hooks:
        hooks.callback(model.decoder.register_forward_pre_hook(before, with_kwargs=True).remove)
        for (point, layer), values in vectors.items():

            def put(x: torch.Tensor, values: torch.Tensor = values) -> torch.Tensor | None:
                if not prompt[0]:
                    return None
                assert x.shape[:2] == (len(batch), batch.n_slots)
                flat = x.reshape(-1, x.shape[-1]).clone()
                flat[rows.to(x.device)] = values.to(x.device, x.dtype)
                return flat.reshape(x.shape)

            hooks.enter_context(hooked(points(model, point)[layer], put))
        yield


@contextmanager
def hooked(module: nn.Module, see: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """`see` gets the module's input (samples, slots, d), and may give another."""

    def hook(
        _: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]] | None:
        new = see(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
