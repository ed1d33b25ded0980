"""The measures against the work that cannot be avoided, in one run: a matrix product, FAISS alone, scikit-learn.

python tests/bench/measures.py [--quick] [--points 20000] [--widths 512,4096] [--adp 50000]

"product" is all inner products in float32 and nothing else (sgemm). "FAISS alone" is IndexFlatL2, which counts a point
among its own neighbours and does not repair what float32 rounds away under massive activations, as the points here
have them. Every ratio is of CPU seconds, but where threads are compared. DADApy: tests/bench/dadapy.py.
"""

import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import faiss
import numpy as np
from measuring import Goal, finish, parser, row, taking_turns
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from actstore_analyze.cluster.density import knn_log_density
from actstore_analyze.cluster.measure import density_peaks_from
from actstore_analyze.dimension.measure import gride_from
from actstore_analyze.gap.measure import cosine_gap
from actstore_analyze.neighbors import nearest
from actstore_analyze.neighbors.blocks import Block, search_blocks
from actstore_analyze.neighbors.tiles import Processor
from actstore_analyze.overlap.measure import label_overlap
from actstore_analyze.sae.formats import JumpRelu
from actstore_analyze.sae.measure import reconstruction

K, MAX_K, FEATURES, LAYERS = 30, 128, 16_384, 4
NEIGHBOURS = Goal("<=", 1.15)  # of the CPU time of FAISS alone
BOUNDED = Goal("<=", 4)  # of the CPU time of FAISS alone for a tenth of the points
PEAKS = Goal("<=", 1)  # of 0.1 CPU s
SAES = Goal("<=", 1.1)  # of the CPU time of the encoder's product
ACTIVE = 0.005

Points = NDArray[np.float32]


def clusters(n: int, width: int, seed: int = 0) -> Points:
    """Points (n, width) in ten clusters on curved sheets, with two massive dimensions, as residual streams have."""
    rng = np.random.default_rng(seed)
    inside = rng.standard_normal((n, 12)).astype(np.float32)
    x = np.tanh(inside @ rng.standard_normal((12, width)).astype(np.float32) / 3)
    x += 2 * rng.standard_normal((10, width)).astype(np.float32)[np.arange(n) % 10]
    x[:, :2] += 300
    return x


def power_law(n: int, width: int, slope: float = 1.5) -> Points:
    """Gaussian points (n, width) whose variances fall as i^-slope, in directions of no axis."""
    rng = np.random.default_rng(0)
    inside = rng.standard_normal((n, width), dtype=np.float32) * np.arange(1, width + 1) ** np.float32(-slope / 2)
    mirror = rng.standard_normal(width, dtype=np.float32)
    inside -= np.outer(inside @ mirror, 2 / (mirror @ mirror) * mirror)
    return inside


def flat(x: Points, k: int, share: int = 1) -> None:
    """FAISS alone, for one in `share` of the points."""
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    index.search(x[: len(x) // share], k + 1)


def scikit(x: Points, k: int) -> None:
    NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors()


def product(x: Points, y: Points, step: int = 1024) -> None:
    """All inner products of x (n, d) and y (m, d)."""
    made = np.empty((step, len(y)), np.float32)
    for start in range(0, len(x), step):
        some = x[start : start + step]
        np.matmul(some, y.T, out=made[: len(some)])


def geometry(x: Points) -> None:
    """Gride at all scales, density at its rank, and density peaks, from one search."""
    found = nearest(x, MAX_K, metric="normalised")
    dimension = float(gride_from(found)["id"][4])
    knn_log_density(found, dimension, 15)
    density_peaks_from(found.first(100), dimension=dimension)


def autoencoder(x: Points, features: int) -> JumpRelu:
    """A random one of which 0.005 of the features are active on x, as of Gemma Scope's on text."""
    rng = np.random.default_rng(0)
    inside = rng.standard_normal((x.shape[1], features), dtype=np.float32) / np.float32(np.sqrt(x.shape[1]))
    threshold = np.quantile(x[:256] @ inside, 1 - ACTIVE, axis=0).astype(np.float32)
    zeros = {"b_enc": np.zeros(features, np.float32), "b_dec": np.zeros(x.shape[1], np.float32)}
    return JumpRelu({"W_enc": inside, "W_dec": np.ascontiguousarray(inside.T), "threshold": threshold, **zeros})


@dataclass(frozen=True)
class Dense:
    """An autoencoder whose decoder multiplies every feature, active or not."""

    sae: JumpRelu

    def encode(self, x: NDArray[np.floating], /) -> NDArray[np.float32]:
        return self.sae.encode(x)

    def decode(self, features: NDArray[np.floating], /) -> NDArray[np.float32]:
        return self.sae.decode(features)


def encoded(x: Points, inside: Points, step: int = 1024) -> None:
    """The floor: the encoder's product, and nothing else."""
    for start in range(0, len(x), step):
        x[start : start + step] @ inside


Calls = dict[str, Callable[[], object]]
Rows = list[dict[str, Any]]


def compared(
    what: str, size: tuple[int, int], calls: Calls, repeats: int, goals: dict[str, Goal], *, peak: bool = True
) -> Rows:
    """`calls["ours"]` at (points, width) beside each of the others, and what it holds at its peak, which is a call."""
    spent = taking_turns(calls, repeats)
    ours, at = spent.pop("ours"), f"{what}, {size[0]} x {size[1]}"
    rows = [row(at, ours.cpu, "CPU s", name, one.cpu, goal=goals.get(name), size=size) for name, one in spent.items()]
    if not peak:
        return rows
    tracemalloc.start()  # numpy tells it of its arrays; those of FAISS are not in it
    calls["ours"]()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [*rows, row(f"{at}: peak of its arrays", most / 1e6, "MB")]


def neighbours(n: int, width: int, repeats: int) -> Rows:
    """kNN for overlap."""
    x = clusters(n, width)
    calls: Calls = {
        "ours": partial(nearest, x, K),
        "FAISS alone": partial(flat, x, K),
        "product": partial(product, x, x),
    }
    is_large = n >= 20_000 and width >= 4096
    if not is_large:
        calls["scikit-learn"] = partial(scikit, x, K)
    goals = {"FAISS alone": NEIGHBOURS} if is_large else {}
    return compared(f"{K} neighbours", (n, width), calls, 1 if is_large else repeats, goals, peak=not is_large)


def bounded(n: int, width: int) -> Rows:
    """kNN where variances fall, so that bounds spare products."""
    x = power_law(n, width)
    calls: Calls = {
        "ours": partial(nearest, x, K),
        "FAISS alone for a tenth": partial(flat, x, K, 10),
        "product of a tenth": partial(product, x[: n // 10], x),
    }
    goals = {"FAISS alone for a tenth": BOUNDED} if n >= 20_000 and width >= 4096 else {}
    return compared(f"{K} neighbours, variances i^-1.5", (n, width), calls, 1, goals, peak=False)


def in_blocks(n: int, width: int) -> Rows:
    """kNN of points that are read in quarters, as those of a large store are, beside all of them in memory."""
    x, numbers, step = clusters(n, width), np.arange(n), -(-n // 4)

    def blocks() -> Iterator[Block]:
        for at in range(0, n, step):
            yield Block(x[at : at + step], numbers[at : at + step], numbers[at : at + step])

    calls: Calls = {
        "ours": lambda: [search_blocks(one, blocks(), K, 0.0, Processor()) for one in blocks()],
        "in memory": partial(nearest, x, K),
    }
    return compared(f"{K} neighbours by blocks", (n, width), calls, 1, {})


def overlaps(n: int, width: int, repeats: int) -> Rows:
    """Label overlap of some layers."""
    layers, labels = [clusters(n, width, seed) for seed in range(LAYERS)], np.arange(n) % 10
    calls: Calls = {
        "ours": lambda: [label_overlap(x, labels, K) for x in layers],
        "FAISS alone": lambda: [flat(x, K) for x in layers],
        "product": lambda: [product(x, x) for x in layers],
    }
    return compared(f"label overlap of {LAYERS} layers", (n, width), calls, repeats, {})


def peaked(n: int, width: int, repeats: int) -> Rows:
    """The way to density peaks."""
    x = clusters(n, width)
    calls = {"ours": partial(geometry, x), "FAISS alone": partial(flat, x, MAX_K), "product": partial(product, x, x)}
    return compared("Gride + density + ADP", (n, width), calls, repeats, {})


def gap(n: int, width: int, repeats: int) -> Rows:
    """The modality gap of n x n pairs."""
    text, image = clusters(n, width, 1), clusters(n, width, 2)
    calls = {"ours": partial(cosine_gap, text, image), "product": partial(product, text, image)}
    return compared("gap of all pairs", (n, width), calls, repeats, {})


def saes(n: int, width: int, repeats: int) -> Rows:
    """Reconstruction by a wide autoencoder."""
    x = clusters(n, width) - clusters(n, width).mean(axis=0)
    sae = autoencoder(x, FEATURES)
    inside = np.ascontiguousarray(sae.weights["W_enc"])
    calls = {
        "ours": partial(reconstruction, x, sae),
        "encoder's product": partial(encoded, x, inside),
        "every feature decoded": partial(reconstruction, x, Dense(sae)),
    }
    goals = {"encoder's product": SAES} if n >= 2000 and width >= 2304 else {}
    with threadpool_limits(1):  # a second thread's waiting is CPU time, too
        return compared(f"SAE metrics, {FEATURES} features", (n, width), calls, repeats, goals)


def sizes(n: int) -> dict[Callable[[int, int, int], Rows], tuple[int, int]]:
    """Each measure, and at how many points of which width it is measured."""
    return {overlaps: (n, 256), peaked: (n, 512), gap: (min(n, 10_000), 1024), saes: (n // 5, 2304)}


def peaks(n: int, repeats: int) -> Rows:
    """Density peaks from neighbours that are known."""
    found = nearest(clusters(n, 16), 100, metric="normalised")
    call = partial(density_peaks_from, found, dimension=12.0)
    call()
    spent = taking_turns({"ours": call}, max(3, repeats))["ours"]
    return [row(f"ADP of {n} points from their neighbours", spent.cpu, "CPU s", "the goal", 0.1, goal=PEAKS)]


def curves(n: int, width: int, repeats: int) -> Rows:
    """How all of them scale: at a quarter and half of the points, and of their width."""
    return [
        one
        for measure, (most, wide) in {neighbours: (n, width), **sizes(n)}.items()
        for points, wide in ((most // 4, wide), (most // 2, wide), (most, wide // 4), (most, wide // 2))
        for one in measure(points, wide, repeats)
        if one["beside"] in ("FAISS alone", "product", "encoder's product")
    ]


def threads(n: int, width: int, repeats: int) -> Rows:
    """What all cores make of the clock, beside one."""
    x, cores = clusters(n, width), os.cpu_count() or 1

    def measured(limit: int, call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with threadpool_limits(limit):
                call()

        return run

    calls = {
        f"{K} neighbours, {n:,} x {width}": lambda: nearest(x, K),
        f"gap, {n:,} x {n:,} pairs": lambda: cosine_gap(x, x[::-1]),
    }
    rows = []
    for name, call in calls.items():
        spent = taking_turns({"all": measured(cores, call), "one": measured(1, call)}, repeats)
        one, every = spent["one"].wall, spent["all"].wall
        rows.append(
            row(f"{name}, {cores} threads", every, "wall s", "one thread", one, ratio=one / every, better="more")
        )
    return rows


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--points", type=int, help="points of the measures")
    made.add_argument("--widths", help="widths of the points whose neighbours are found")
    made.add_argument("--adp", type=int, default=50_000, help="points of density peaks from known neighbours")
    asked = made.parse_args()
    n = asked.points or (1000 if asked.quick else 20_000)
    widths = [int(width) for width in (asked.widths or ("512,1024" if asked.quick else "512,4096")).split(",")]
    repeats = 2
    rows = [
        one for width in widths for one in [*neighbours(n, width, repeats), *bounded(n, width), *in_blocks(n, width)]
    ]
    rows += [one for measure, size in sizes(n).items() for one in measure(*size, repeats)]
    rows += peaks(asked.adp if not asked.quick else min(asked.adp, 10_000), repeats)
    rows += curves(min(n, 10_000), widths[0], repeats)
    rows += threads(min(n, 10_000), widths[0], repeats)
    finish(asked, rows)


if __name__ == "__main__":
    main()
