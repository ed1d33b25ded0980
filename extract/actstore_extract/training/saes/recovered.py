"""What a language model loses when vectors of its residual stream are an autoencoder's reconstructions."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from actstore.errors import ActstoreError
from actstore_extract.families import Batch, Encoded, Model
from actstore_extract.forward.points import at_point, residual

__all__ = ["Read", "losses", "recovered"]

Put = Callable[[torch.Tensor], torch.Tensor]  # vectors (n, d) in float32 -> what takes their place
TOGETHER = 16
ROUNDING = {"float32": 1e-3, "float16": 0.02, "bfloat16": 0.05}  # relative, between two runs of one model


class Read(NamedTuple):
    """A sample as the model takes it, positions (n,) whose vectors are put something in the place of, and what a store
    has of these vectors (n, d) at each of some layers."""

    encoded: Encoded
    at: NDArray[np.int64]
    stored: Mapping[int, torch.Tensor]


@torch.no_grad()
def losses(model: Model, samples: Sequence[Read], layer: int | None = None, put: Put | None = None) -> list[float]:
    """The cross-entropy in nats of each token that follows one of the positions, with something in the place of the
    vectors there at a layer, or as the model is, whose vectors have to be those of the store."""
    found: list[float] = []
    for chosen in model.batches([one.encoded for one in samples], TOGETHER):
        own = [samples[i] for i in chosen]
        batch = model.collate([one.encoded for one in own])
        rows = torch.from_numpy(np.concatenate([batch.rows(i, one.at) for i, one in enumerate(own)])).to(model.device)
        if layer is None or put is None:
            logits = _as_it_is(model, batch, own, rows)
        else:
            with at_point(model, "residual", layer, _putting(model, batch, rows, put)):
                logits = cast(torch.Tensor, model(batch).logits)
        for i, one in enumerate(own):
            before = one.at[one.at + 1 < one.encoded.length]
            after = torch.from_numpy(one.encoded.layout.token_ids[before + 1]).to(model.device)
            found += cross_entropy(logits[i, before].float(), after, reduction="none").tolist()
    return found


def _putting(model: Model, batch: Batch, rows: torch.Tensor, put: Put) -> Put:
    """The residual stream with what `put` makes of these rows in their place."""

    def see(x: torch.Tensor) -> torch.Tensor:
        changed = residual(model, x, (len(batch), batch.n_slots)).clone()
        flat = changed.view(-1, changed.shape[-1])
        flat[rows] = put(flat[rows].float()).to(flat.dtype)
        return changed

    return see


def _as_it_is(model: Model, batch: Batch, own: Sequence[Read], rows: torch.Tensor) -> torch.Tensor:
    """The logits; ActstoreError where a vector on the way is not the stored one."""
    layers = sorted(own[0].stored)
    seen: list[torch.Tensor] = []

    def look(x: torch.Tensor) -> None:
        seen.append(residual(model, x, (len(batch), batch.n_slots)).reshape(-1, x.shape[-1])[rows].float().cpu())

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(at_point(model, "residual", layer, look))
        logits = cast(torch.Tensor, model(batch).logits)
    allowed = ROUNDING[str(model.dtype).removeprefix("torch.")]
    for layer, x in zip(layers, seen, strict=True):
        stored = torch.cat([one.stored[layer] for one in own])
        off = float((x - stored).norm() / stored.norm())
        if not off <= allowed:
            names = ", ".join(batch.sample_ids[:3])
            raise ActstoreError(
                f"the model here gives other vectors than the store has: {names} differ by {off:.2g} at layer {layer}, "
                f"relative, and {allowed:g} is rounding; was the store made with another device or version?"
            )
    return logits


def recovered(model: Model, samples: Sequence[Read], layer: int, sae: Put, mean: torch.Tensor) -> dict[str, float]:
    """Mean cross-entropies in nats with the vectors at a layer rebuilt, zeroed, and replaced by their mean (d,)."""
    ways: dict[str, Put] = {"rebuilt": sae, "zeroed": torch.zeros_like, "mean": lambda x: mean.expand_as(x)}
    return {f"loss_{name}": float(np.mean(losses(model, samples, layer, put))) for name, put in ways.items()}
