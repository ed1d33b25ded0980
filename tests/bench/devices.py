"""What measures take on a GPU beside numpy: CKA, the gap, autoencoders, neighbours. Part of gpu.py.

Sizes are those of one unit of a measure: vectors of width 4,096 (2,304 for autoencoders of 16,384 features). Neighbours
of all points are searched on the device alone; beside numpy those of a few queries are.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from measuring import Goal, row, speed, taking_turns
from numpy.typing import NDArray

from actstore_analyze.cka.measure import Sums
from actstore_analyze.devices import HOST, Device, Torch
from actstore_analyze.gap.measure import cosine_counts
from actstore_analyze.neighbors import nearest
from actstore_analyze.sae.formats import JumpRelu
from actstore_analyze.sae.measure import sums

K = 30
SECONDS = Goal("<=", 10)
Vectors = NDArray[np.float32]


class Size(NamedTuple):
    """Points of the gap and their width; samples and layers of CKA; vectors, width and features of an autoencoder;
    points that are neighbours, of the width of those of the gap.
    """

    points: int
    width: int
    samples: int
    layers: int
    vectors: int
    d: int
    features: int
    neighbours: int


LARGE = Size(10_000, 4096, 2_000, 8, 4_096, 2_304, 16_384, 100_000)
TINY = Size(60, 16, 40, 2, 50, 16, 64, 90)


def autoencoder(size: Size) -> JumpRelu:
    """Random weights, of whose features about one in a hundred is active."""
    rng = np.random.default_rng(0)
    weights = {
        "W_enc": rng.standard_normal((size.d, size.features), dtype=np.float32) / np.float32(size.d**0.5),
        "W_dec": rng.standard_normal((size.features, size.d), dtype=np.float32),
        "b_enc": np.zeros(size.features, np.float32),
        "b_dec": np.zeros(size.d, np.float32),
        "threshold": np.full(size.features, 2.3, np.float32),
    }
    return JumpRelu(weights)


def cka(layers: list[Vectors], device: Device) -> Sums:
    """Of a role with itself."""
    return Sums.of((layers, layers), device=device)


def rows_of(name: str, size: Size, repeats: int = 2) -> list[dict[str, Any]]:
    """Rows of each measure: the speed on the device over that of numpy, by the clock."""
    device, rng = Torch(name), np.random.default_rng(1)
    text, image = rng.standard_normal((2, size.points, size.width), dtype=np.float32)
    layers = [*rng.standard_normal((size.layers, size.samples, size.width), dtype=np.float32)]
    x = rng.standard_normal((size.vectors, size.d), dtype=np.float32)
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        f"gap of {size.points:,} texts and images": (
            partial(cosine_counts, text, image, device=device),
            partial(cosine_counts, text, image),
        ),
        f"CKA of {size.samples:,} samples, {size.layers} layers": (
            partial(cka, layers, device),
            partial(cka, layers, HOST),
        ),
        f"autoencoder of {size.features:,} features, {size.vectors:,} vectors": (
            partial(sums, x, autoencoder(size).on(device)),
            partial(sums, x, autoencoder(size)),
        ),
    }
    rows = []
    for what, (there, here) in calls.items():
        there()  # warms up
        spent = taking_turns({"there": there, "here": here}, repeats)
        rows.append(speed(f"{what}, on {name}", spent["there"], "numpy", spent["here"], clock=True)[1])
        if what.startswith("auto"):
            rows.append(row(f"{what}, on {name}", size.vectors / spent["there"].wall, "vectors/s"))
    return [*rows, *neighbours(name, size)]


def neighbours(name: str, size: Size) -> list[dict[str, Any]]:
    """Of some queries beside numpy, and seconds of the clock of all, once."""
    device, n = Torch(name), size.neighbours
    x = np.random.default_rng(2).standard_normal((n, size.width), dtype=np.float32)
    x[:, :2] += 300
    queries = np.arange(0, n, max(1, n // 500))
    there, here = (partial(nearest, x, K, queries=queries, device=one) for one in (device, HOST))
    there()
    spent = taking_turns({"there": there, "here": here}, 1)
    what = f"neighbours of {len(queries):,} among {n:,}, on {name}"
    beside = speed(what, spent["there"], "numpy", spent["here"], clock=True)[1]
    seconds = taking_turns({"all": partial(nearest, x, K, device=device)}, 1)["all"].wall
    return [beside, row(f"neighbours of {n:,}, on {name}", seconds, "wall s", ratio=seconds, goal=SECONDS)]
