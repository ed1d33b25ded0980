"""Samples as a replay is given them, held in memory, and the online runs that replays must equal."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from actstore_extract.families import Encoded, Model
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.forward.points import reading, writing
from actstore_extract.interventions.blocks import Block, block_attention
from actstore_extract.interventions.sources import slots
from actstore_extract.replay import Kept
from actstore_extract.roles import Point

Logits = NDArray[np.float32]
At = NDArray[np.int64]


def captured(model: Model, encoded: Encoded) -> tuple[Kept, Logits]:
    """A sample as its store would have it, all positions, layers, keys and values; and its next-token logits."""
    everywhere = np.arange(encoded.length)
    found = capture(
        model,
        model.collate([encoded]),
        [Selection(everywhere, kv=everywhere)],
        layers=range(model.n_layers + 1),
        blocks=range(model.n_layers),
        next_token=True,
    )
    x, keys, values = (one.float().numpy() for one in (found.residual, found.keys, found.values))
    kept = Kept(
        encoded.sample_id,
        encoded.layout,
        lambda layer, at: x[layer][at],
        lambda block, n: (keys[block, :n], values[block, :n]),
    )
    return kept, found.next_logits[0].numpy()


def without_cache(kept: Kept) -> Kept:
    """The same without keys and values: they are made again."""
    return replace(kept, cached=None)


@torch.no_grad()
def online(
    model: Model, source: Encoded, receiver: Encoded, at: tuple[At, At], point: Point, layers: Sequence[int]
) -> Logits:
    """Logits of the receiver's own forward, image and all, with the source's vectors put in as extraction does it."""
    batch, other = model.collate([receiver]), model.collate([source])
    with reading(model, other, slots(other, at[:1]), [(point, layer) for layer in layers]) as seen:
        model(other)
    with writing(model, batch, slots(batch, at[1:]), seen):
        return model(batch).logits[0, -1].float().cpu().numpy()


@torch.no_grad()
def knocked_out(model: Model, encoded: Encoded, blocks: Sequence[Block]) -> Logits:
    """Logits of the sample's own forward with attention blocked."""
    batch = model.collate([encoded])
    with block_attention(model, batch, blocks):
        return model(batch).logits[0, -1].float().cpu().numpy()


def apart(one: Logits, other: Logits) -> float:
    """The largest difference of logits, scaled to size 5, ids that are masked in both left out; NaN for any NaN."""
    said = ~((one < -1e30) & (other < -1e30))
    return float(np.abs(one - other)[said].max() * 5 / np.abs(other[said]).max())
