"""How long a command takes before it does anything: seconds of all cores, each in a process of its own.

python tests/bench/startup.py [--quick]

The baseline is an interpreter that imports what every reader of a store needs. What a command may import at all is a
test: tests/test_imports.py.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Goal, Spent, finish, parser, row

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
import making

LIMIT = 0.6  # CPU seconds
IMPORTS = Goal("<=", 1.2)  # of the CPU time of importing what every reader needs
LIBRARIES = "duckdb, numpy, polars, pyarrow.parquet"


def spent(command: list[str]) -> Spent:
    """CPU and wall seconds of a child."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - wall)


def fastest(command: list[str], repeats: int) -> Spent:
    found = [spent(command) for _ in range(repeats)]
    return Spent(*map(min, zip(*found, strict=True)))


def main() -> None:
    asked = parser(__doc__).parse_args()
    repeats = 2 if asked.quick else 7
    program = str(Path(sys.executable).parent / "actstore")
    with tempfile.TemporaryDirectory() as folder:
        store = str(making.store(Path(folder) / "s", 3).path)
        bare = fastest([sys.executable, "-c", f"import {LIBRARIES}"], repeats)
        rows = []
        for name, arguments in {
            "actstore --help": ["--help"],
            "actstore info": ["info", store],
            "actstore query": ["query", store, "select count(*) from rows"],
            "actstore query, with vectors": ["query", store, "select residual(row_id, 1) from rows"],
        }.items():
            found = fastest([program, *arguments], repeats)
            goal = IMPORTS if name in ("actstore info", "actstore query") else None
            rows.append(row(name, found.cpu, "CPU s", f"import {LIBRARIES}", bare.cpu, goal=goal))
            rows.append(row(name, found.cpu, "CPU s", "the budget", LIMIT, goal=Goal("<=", 1)))
    finish(asked, rows)


if __name__ == "__main__":
    main()
