"""The way from points to density peaks, step by step, against DADApy in an environment of its own.

python tests/bench/dadapy.py [--quick] [--python ENV/bin/python] [--points 20000] [--width 512] [--adp 50000]

DADApy needs numpy below 2, so it cannot share an environment with actstore: `make bench` makes .venv-dadapy for it
(tests/bench/dadapy.sh). Without one nothing is beside ours. Both get the same unit vectors in float32 and one thread.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
os.environ |= THREADS  # before numpy is imported

import numpy as np  # noqa: E402
from measuring import Goal, finish, parser, row  # noqa: E402

from actstore_analyze.cluster.density import knn_log_density  # noqa: E402
from actstore_analyze.cluster.measure import density_peaks_from  # noqa: E402
from actstore_analyze.dimension.measure import gride_from  # noqa: E402
from actstore_analyze.neighbors import nearest  # noqa: E402

K, MAX_K, ID_RANK, Z = 15, 128, 16, 1.2
ALL = Goal("<=", 1 / 3)  # of the CPU time of DADApy
ENVIRONMENT = Path(__file__).parents[2] / ".venv-dadapy/bin/python"

RIVAL = """
import json, sys, time
import numpy as np
from dadapy import Data
x, spent = np.load(sys.argv[1]), {}
def step(name, call):
    start = time.process_time()
    found = call()
    spent[name] = time.process_time() - start
    return found
data = Data(x, maxk=128, n_jobs=1, verbose=False)
step("neighbours", lambda: data.compute_distances(maxk=128, n_jobs=1))
ids, errors, _ = step("Gride", lambda: data.return_id_scaling_gride(range_max=128))
data.set_id(ids[3])
data.compute_density_kNN(k=15)  # once before: its first call compiles
step("density", lambda: data.compute_density_kNN(k=15))
step("density peaks", lambda: data.compute_clustering_ADP(Z=1.2))
print(json.dumps({"spent": spent, "id": float(ids[3]), "clusters": int(data.N_clusters)}))
"""


def points(n: int, width: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Unit vectors (n, width) in ten clusters on curved sheets."""
    rng = np.random.default_rng(0)
    x = np.tanh(rng.standard_normal((n, 12)) @ rng.standard_normal((12, width)) / 3)
    x += 2 * rng.standard_normal((10, width))[np.arange(n) % 10] / np.sqrt(width)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def ours(x: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    """CPU seconds of each step, the dimension and the number of clusters."""
    spent: dict[str, float] = {}

    def step(name: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = call()
        spent[name] = time.process_time() - start
        return found

    found = step("neighbours", lambda: nearest(x, MAX_K))
    scales = step("Gride", lambda: gride_from(found, MAX_K))
    dimension = float(scales.filter(rank=ID_RANK)["id"][0])
    step("density", lambda: knn_log_density(found, dimension, K))
    peaks = step("density peaks", lambda: density_peaks_from(found, z=Z, k=K, dimension=dimension))
    return {"spent": spent, "id": dimension, "clusters": len(peaks.centers)}


def theirs(python: str, x: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    """The same of DADApy, in a process of another environment."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x)
        words = [python, "-I", "-W", "ignore", "-c", RIVAL, f"{folder}/x.npy"]
        done = subprocess.run(words, env={**os.environ, **THREADS}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"DADApy did not run in {python}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(n: int, width: int, python: str | None) -> list[dict[str, Any]]:
    """CPU seconds of each step, ours and theirs; the last row is all of them, the one before without the search."""
    x = points(n, width)
    own, other = ours(x), theirs(python, x) if python else None
    print(f"{n} x {width}: dimension {own['id']:.3f}, {own['clusters']} clusters", end="")
    print(f"; DADApy: {other['id']:.3f}, {other['clusters']}" if other else "; no DADApy in .venv-dadapy")
    steps = {name: (name,) for name in own["spent"]}
    steps |= {"from neighbours on": tuple(own["spent"])[1:], "all steps": tuple(own["spent"])}
    rows = []
    for name, parts in steps.items():
        cpu = sum(own["spent"][part] for part in parts)
        rival = None if other is None else sum(other["spent"][part] for part in parts)
        goal = ALL if name == "all steps" and width > 16 else None
        rows.append(row(f"{name}, {n} x {width}", cpu, "CPU s", "DADApy", rival, goal=goal))
    return rows


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--python", type=Path, default=ENVIRONMENT, help="of an environment with DADApy")
    made.add_argument("--points", type=int)
    made.add_argument("--width", type=int, default=512)
    made.add_argument("--adp", type=int, help="points of width 16, for the density peaks step")
    asked = made.parse_args()
    python = str(asked.python) if asked.python.exists() else None
    rows = compared(asked.points or (1000 if asked.quick else 8000), asked.width, python)
    rows += compared(asked.adp or (2000 if asked.quick else 20_000), 16, python)
    finish(asked, rows)


if __name__ == "__main__":
    main()
