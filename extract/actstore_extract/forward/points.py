"""Points of a forward where vectors are read, and where those of another sample are written in their place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import nn
from transformers import Cache

from actstore.errors import ActstoreError
from actstore_extract.families import Batch, Model
from actstore_extract.families.anatomy import several, stream
from actstore_extract.forward.tap import attention_of
from actstore_extract.roles import Point

__all__ = ["CaptureError", "at_point", "check_writable", "prompts", "reading", "residual", "writing"]

See = Callable[[torch.Tensor], torch.Tensor | None]


class CaptureError(ActstoreError):
    """What was asked for cannot be captured from this model."""


@contextmanager
def at_point(model: Model, point: Point, layer: int, see: See, *, first: bool = False) -> Iterator[None]:
    """Inside, `see` gets what is at the point in every forward, and may give another; of several that do the earlier
    entered comes before, but for one that is `first`, at what enters a block.

    "residual": what enters block `layer`, at L what the final norm reads of the last block, or that block's output if
    there is no norm. "attention-input": what the attention of the block reads; AttentionError where it has none.
    """
    if point == "attention-input":
        hooked = _entering(attention_of(model, layer), see)
    elif layer < model.n_layers:
        hooked = _entering(model.layers[layer], see, first=first)
    elif model.norm is None:
        hooked = _leaving(model.layers[-1], see)
    else:
        hooked = _behind(model.layers[-1], model.norm, see)
    with hooked:
        yield


@contextmanager
def _behind(block: nn.Module, norm: nn.Module, see: See) -> Iterator[None]:
    """What enters the norm the first time after the block ran: some models use it in front of their blocks too."""
    ran = [False]

    def after(*_: object) -> None:
        ran[0] = True

    def once(x: torch.Tensor) -> torch.Tensor | None:
        if not ran[0]:
            return None
        ran[0] = False
        return see(x)

    handle = block.register_forward_hook(after)
    try:
        with _entering(norm, once):
            yield
    finally:
        handle.remove()


@contextmanager
def _entering(module: nn.Module, see: See, *, first: bool = False) -> Iterator[None]:
    """What the module is given first, whatever it calls it."""

    def hook(
        _: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]] | None:
        new = see(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    handle = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=first)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _leaving(module: nn.Module, see: See) -> Iterator[None]:
    """What the module gives, alone or first of several."""

    def hook(_: nn.Module, __: object, output: object) -> object:
        new = see(cast(torch.Tensor, output[0] if isinstance(output, tuple | list) else output))
        if new is None:
            return None
        return type(output)((new, *output[1:])) if isinstance(output, tuple | list) else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def residual(model: Model, x: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """The residual stream (samples, slots, d) of what is at a point, in a forward of `shape` (samples, slots);
    CaptureError for what is none."""
    found = stream(model.decoder.config, x)
    if found.shape != (*shape, model.d_model):
        raise CaptureError(
            f"the blocks of {type(model.module).__name__} are handed {tuple(x.shape)} for {shape[0]} samples of "
            f"{shape[1]} tokens and a width of {model.d_model}: which of it is the residual stream is not known"
        )
    return found


def check_writable(model: Model) -> None:
    """CaptureError for a model whose residual stream is several, of which a vector can take the place of none."""
    if (which := several(model.decoder.config)) is not None:
        raise CaptureError(
            f"{type(model.module).__name__} carries several residual streams, of which {which} is kept: none can be "
            "patched or steered; block attention instead"
        )


@contextmanager
def prompts(model: Model) -> Iterator[list[bool]]:
    """Inside, whether the forward under way is of a prompt, and not of what follows one that is in a cache."""
    prompt = [True]

    def before(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        past = next((one for one in (*args, *kwargs.values()) if isinstance(one, Cache)), None)
        prompt[0] = past is None or _is_empty(past)

    handle = model.decoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield prompt
    finally:
        handle.remove()


def _is_empty(cache: Cache) -> bool:
    try:
        return int(cache.get_seq_length()) == 0
    except ValueError:  # no block of it has attention
        return not cache.has_previous_state()


@contextmanager
def reading(
    model: Model, batch: Batch, rows: torch.Tensor, wanted: Sequence[tuple[Point, int]]
) -> Iterator[dict[tuple[Point, int], torch.Tensor]]:
    """In forwards of the batch without cache, the vectors of its flattened `rows` (n,) are kept, (n, d) by point."""
    found: dict[tuple[Point, int], torch.Tensor] = {}
    with ExitStack() as hooks:
        for point, layer in wanted:

            def keep(x: torch.Tensor, key: tuple[Point, int] = (point, layer)) -> None:
                x = residual(model, x, (len(batch), batch.n_slots))
                found[key] = x.reshape(-1, x.shape[-1])[rows.to(x.device)]

            hooks.enter_context(at_point(model, point, layer, keep))
        yield found


@contextmanager
def writing(
    model: Model, batch: Batch, rows: torch.Tensor, vectors: Mapping[tuple[Point, int], torch.Tensor]
) -> Iterator[None]:
    """In forwards of the batch, `rows` (n,) of its flattened prompt are `vectors` (n, d) at each point.

    In generation that is in the prompt's own forward: what follows reads it in the cache. The residual stream itself
    is not written over: what reads it elsewhere sees it as it is.
    """
    check_writable(model)
    with ExitStack() as hooks:
        prompt = hooks.enter_context(prompts(model))
        for (point, layer), values in vectors.items():

            def put(x: torch.Tensor, values: torch.Tensor = values) -> torch.Tensor | None:
                if not prompt[0]:
                    return None
                x = residual(model, x, (len(batch), batch.n_slots))
                flat = x.reshape(-1, x.shape[-1]).clone()
                flat[rows.to(x.device)] = values.to(x.device, x.dtype)
                return flat.reshape(x.shape)

            hooks.enter_context(at_point(model, point, layer, put))
        yield
