"""Exact neighbours, and Gride, density and density peaks from them, against FAISS and a matrix product, in one run.

python tests/bench/measures.py [--points 4000] [--widths 512,4096] [--adp 10000]
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import faiss
import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.table import render
from actstore_analyze.clustering import density_peaks, density_peaks_from
from actstore_analyze.dimension import gride_from
from actstore_analyze.neighbors import nearest

K, MAX_K, REPEATS = 30, 128, 2

Points = NDArray[np.float32]


class Spent(NamedTuple):
    """Seconds of all cores, and of the clock."""

    cpu: float
    wall: float


def best(call: Callable[[], Any]) -> Spent:
    """The fastest of some calls."""
    found = []
    for _ in range(REPEATS):
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        found.append(Spent(time.process_time() - cpu, time.perf_counter() - wall))
    return min(found)


def clusters(n: int, width: int) -> Points:
    """Points (n, width) in ten clusters on curved sheets, with two massive dimensions, as residual streams have."""
    rng = np.random.default_rng(0)
    inside = rng.standard_normal((n, 12)).astype(np.float32)
    x = np.tanh(inside @ rng.standard_normal((12, width)).astype(np.float32) / 3)
    x += 2 * rng.standard_normal((10, width)).astype(np.float32)[np.arange(n) % 10]
    x[:, :2] += 300
    return x


def flat(x: Points, k: int) -> None:
    """What FAISS alone does: approximate in float32, and the point among its own neighbours."""
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    index.search(x, k + 1)


def product(x: Points, step: int = 1024) -> None:
    """The floor: all inner products in float32, and nothing else."""
    for start in range(0, len(x), step):
        x[start : start + step] @ x.T


def geometry(x: Points) -> None:
    """Gride at all scales, then density peaks with the dimension at rank 16, from one search."""
    found = nearest(x, MAX_K, metric="normalised")
    gride_from(found)
    density_peaks_from(found.first(100))


def compared(what: str, n: int, width: int, spent: Spent, floor: Spent, alone: Spent) -> dict[str, object]:
    """A row of the table: seconds, and CPU seconds over those of the floor and of FAISS."""
    return {
        "what": what, "points": n, "width": width, "cpu_s": spent.cpu, "wall_s": spent.wall,
        "faiss_cpu_s": alone.cpu, "over_faiss": spent.cpu / alone.cpu, "over_product": spent.cpu / floor.cpu,
    }  # fmt: skip


def measured(n: int, width: int) -> list[dict[str, object]]:
    """Neighbours for overlap, and the whole way to clusters, at one size."""
    x = clusters(n, width)
    floor = best(lambda: product(x))
    rows = [compared(f"nearest, k = {K}", n, width, best(lambda: nearest(x, K)), floor, best(lambda: flat(x, K)))]
    alone = best(lambda: flat(x, MAX_K))
    return [*rows, compared(f"Gride + density + peaks, k = {MAX_K}", n, width, best(lambda: geometry(x)), floor, alone)]


def peaks_alone(n: int) -> dict[str, object]:
    """Density peaks from neighbours found before."""
    x = clusters(n, 16)
    found, alone, floor = nearest(x, 100, metric="normalised"), best(lambda: flat(x, 100)), best(lambda: product(x))
    dimension = density_peaks(x[:2000]).dimension
    spent = best(lambda: density_peaks_from(found, dimension=dimension))
    return compared("density peaks from known neighbours", n, 16, spent, floor, alone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--points", type=int, default=4000, help="points for neighbours and the way to clusters")
    parser.add_argument("--widths", default="512,4096", help="dimensions of these points")
    parser.add_argument("--adp", type=int, default=10_000, help="points for density peaks from known neighbours")
    asked = parser.parse_args()
    widths = [int(width) for width in asked.widths.split(",")]
    rows = [row for width in widths for row in measured(asked.points, width)]
    render(pl.DataFrame([*rows, peaks_alone(asked.adp)]), "table", None)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"largest memory of the process: {largest / 1e6:,.0f} MB; {faiss.omp_get_max_threads()} threads")


if __name__ == "__main__":
    main()
