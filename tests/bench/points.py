"""Neighbours of a store's own vectors against the work that cannot be avoided: a matrix product, FAISS alone.

python tests/bench/points.py STORE --role image [--layers 3,15,28] [--points 50000] [--width 4096]

The points are drawn among the rows of a role; of the product and of FAISS a tenth of the queries is measured, and
taken ten times. The exponent is that of a power law fitted to the variances along principal directions, the first
and the last left out; with --width Gaussian points of that law and width are measured, too. CPU seconds.
"""

from functools import partial
from pathlib import Path

import numpy as np
from measures import Calls, K, Points, Rows, flat, power_law, product
from measuring import Goal, finish, parser, row, taking_turns

import actstore
from actstore_analyze.neighbors import nearest

TENTH = 10
GOAL = Goal("<=", 0.4)  # of the CPU time of FAISS alone, at 50,000 points


def measured(what: str, x: Points) -> Rows:
    """kNN of all points, beside a tenth of the product and of FAISS, ten times."""
    calls: Calls = {
        "ours": partial(nearest, x, K),
        "product": partial(product, x[: len(x) // TENTH], x),
        "FAISS alone": partial(flat, x, K, TENTH),
    }
    spent = taking_turns(calls, 1)
    at = f"{K} neighbours of {len(x):,} x {x.shape[1]}, {what}"
    goals = {"FAISS alone": GOAL}
    return [
        row(at, spent["ours"].cpu, "CPU s", beside, TENTH * spent[beside].cpu, goal=goals.get(beside), size=x.shape)
        for beside in ("product", "FAISS alone")
    ]


def exponent(x: Points) -> float:
    """s of the variances i^-s that are nearest, in logarithms, to those along principal directions 2 to d / 2."""
    variances = np.linalg.eigvalsh(np.cov(x[:: max(1, len(x) // 10_000)].T))[::-1]
    i = np.arange(2, len(variances) // 2)
    return -float(np.polyfit(np.log(i), np.log(variances[i - 1]), 1)[0])


def main() -> None:
    made = parser(__doc__)
    made.add_argument("store", type=Path)
    made.add_argument("--role", required=True, help="whose vectors are searched")
    made.add_argument("--layers", default="-1", help="layers, by commas")
    made.add_argument("--points", type=int, default=50_000, help="points, drawn with seed 0")
    made.add_argument("--width", type=int, help="also Gaussian points of that width, of the law that is fitted")
    asked = made.parse_args()
    rows: Rows = []
    with actstore.open(asked.store) as store:
        there = store.sql("select row_id from rows where role = $1 order by row_id", [asked.role])["row_id"].to_numpy()
        n = min(asked.points if not asked.quick else 2000, len(there))
        drawn = np.sort(np.random.default_rng(0).choice(there, n, replace=False))
        for layer in map(int, asked.layers.split(",")):
            x = store.residual(drawn, layer)
            what, slope = f"'{asked.role}' at layer {layer}", exponent(x)
            rows += [row(f"exponent of {what}", slope, ""), *measured(what, x)]
            if asked.width:
                rows += measured(f"Gaussian, i^-{slope:.2f}", power_law(n, asked.width, slope))
    finish(asked, rows)


if __name__ == "__main__":
    main()
