"""Writing and reading a store against np.save and np.load of the same bytes, in one run.

python tests/bench/store.py [--megabytes 256]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

import actstore
from actstore.format import from_bfloat16, to_bfloat16
from actstore.table import render

LAYERS, WIDTH, REPEATS = 8, 4096, 3


def best(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of the fastest of some calls."""
    times = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(times)


def heavy_tailed(rows: int) -> np.ndarray:
    """bfloat16 bit patterns (layers, rows, width) with the spread and the massive dimensions of a residual stream."""
    rng = np.random.default_rng(0)
    x = rng.standard_t(5, (LAYERS, rows, WIDTH)).astype(np.float32)
    x *= np.exp(rng.normal(0, 0.5, WIDTH)).astype(np.float32)
    x[..., :2] *= 300
    return to_bfloat16(x)


def synced(path: Path, array: np.ndarray) -> None:
    """np.save, forced to disk as a store is."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--megabytes", type=int, default=256)
    megabytes = parser.parse_args().megabytes
    rows = megabytes * 10**6 // (LAYERS * WIDTH * 2)
    x = heavy_tailed(rows)
    plan = pl.DataFrame({"sample_id": [f"s{i}" for i in range(rows)], "batch": [0] * rows})
    table = pl.DataFrame({"sample_id": plan["sample_id"], "role": ["eoi"] * rows})
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        count = iter(range(100))

        def write() -> None:
            store = actstore.create(root / f"s{next(count)}", plan=plan, layers=range(LAYERS), d_model=WIDTH)
            store.write(0, samples=plan.select("sample_id"), rows=table, residual={"eoi": x})

        baseline = best(lambda: synced(root / "x.npy", x))
        found.append(("write all, synced", "np.save + fsync", best(write), baseline, x.nbytes))
        for layer in range(LAYERS):
            np.save(root / f"layer{layer}.npy", x[layer])
        store = actstore.open(root / "s0")
        ids = store.sql("select row_id from rows order by row_id")
        few = ids.sample(max(1, rows // 100), seed=0)
        one = best(lambda: from_bfloat16(np.load(root / "layer3.npy")))
        found.append(
            ("one layer, all rows", "np.load of that layer", best(lambda: store.residual(ids, 3)), one, x[3].nbytes)
        )
        mapped = np.load(root / "layer3.npy", mmap_mode="r")
        places = (few["row_id"] & 0xFFFFFFFF).to_numpy()
        scattered = best(lambda: from_bfloat16(np.asarray(mapped[places])))
        found.append(
            (
                "one layer, 1 % of rows",
                "memory map",
                best(lambda: store.residual(few, 3)),
                scattered,
                few.height * WIDTH * 2,
            )
        )
        on_disk = store.commits[0].bytes / x.nbytes
    columns = ("what", "baseline", "MB", "wall_s", "cpu_s", "baseline_wall_s", "wall_ratio")
    rows_out = [
        (what, beside, size / 1e6, wall, cpu, base, base / wall) for what, beside, (wall, cpu), (base, _), size in found
    ]
    render(pl.DataFrame(rows_out, schema=columns, orient="row"), "table")
    print(f"on disk: {on_disk:.2f} of the raw bytes (synthetic heavy-tailed bfloat16); {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
