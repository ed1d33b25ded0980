"""How long a command takes before it does anything: seconds of all cores, each in a process of its own.

python tests/bench/startup.py [--quick]

The baseline is an interpreter that imports what every reader of a store needs. What a command may import at all is a
test: tests/test_imports.py.
"""

import os
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
# Where Python writes no bytecode, a checkout would be compiled anew by each command, which no installation is.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def spent(command: list[str]) -> Spent:
    """CPU and wall seconds of a child."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=COMPILED)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - wall)


def fastest(commands: dict[str, list[str]], repeats: int) -> dict[str, Spent]:
    """Each command's fastest of some rounds, in which they take turns."""
    found: dict[str, list[Spent]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            found[name].append(spent(command))
    return {name: Spent(*map(min, zip(*one, strict=True))) for name, one in found.items()}


def main() -> None:
    asked = parser(__doc__).parse_args()
    program = str(Path(sys.executable).parent / "actstore")
    with tempfile.TemporaryDirectory() as folder:
        store = str(making.store(Path(folder) / "s", 3).path)
        commands = {
            "actstore --help": ["--help"],
            "actstore info": ["info", store],
            "actstore query": ["query", store, "select count(*) from rows"],
            "actstore query, with vectors": ["query", store, "select residual(row_id, 1) from rows"],
        }
        bare = f"import {LIBRARIES}"
        calls = {bare: [sys.executable, "-c", bare]} | {name: [program, *words] for name, words in commands.items()}
        found = fastest(calls, 2 if asked.quick else 9)
        rows = []
        for name in commands:
            goal = IMPORTS if name in ("actstore info", "actstore query") else None
            rows.append(row(name, found[name].cpu, "CPU s", bare, found[bare].cpu, goal=goal))
            rows.append(row(name, found[name].cpu, "CPU s", "the budget", LIMIT, goal=Goal("<=", 1)))
    finish(asked, rows)


if __name__ == "__main__":
    main()
