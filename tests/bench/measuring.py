"""What the programs here share: timing in one run, and the table that each prints.

A program measures rows and calls `finish`; `python tests/bench` runs them all. Calls that are compared take turns,
so that a busy minute falls on all of them, and the fastest of each counts.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from actstore.commands.table import render

PACKAGES = (
    "actstore", "numpy", "torch", "transformers", "zarr", "numcodecs", "duckdb", "polars", "faiss-cpu",
    "scikit-learn", "sae-lens", "transformer-lens", "nnsight",
)  # fmt: skip
COLUMNS = {
    "program": pl.String, "what": pl.String, "ours": pl.Float64, "beside": pl.String, "baseline": pl.Float64,
    "unit": pl.String, "ratio": pl.Float64, "better": pl.String, "goal": pl.String, "met": pl.Boolean,
    "points": pl.Int64, "width": pl.Int64,
}  # fmt: skip


class Spent(NamedTuple):
    """Seconds of all cores, and of the clock: the fastest of some calls, each for itself."""

    cpu: float
    wall: float


class Goal(NamedTuple):
    """What a ratio should be: at least, or at most, some number."""

    relation: str
    bound: float

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"

    def is_met(self, ratio: float) -> bool:
        return ratio >= self.bound if self.relation == ">=" else ratio <= self.bound


def taking_turns(
    calls: Mapping[str, Callable[[], object]], repeats: int, *, before: Callable[[], None] = lambda: None
) -> dict[str, Spent]:
    """Each call's fastest of `repeats` rounds; `before` each call, `before()` is run and not timed."""
    found: dict[str, list[Spent]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            before()
            cpu, wall = time.process_time(), time.perf_counter()
            call()
            found[name].append(Spent(time.process_time() - cpu, time.perf_counter() - wall))
    return {name: Spent(*map(min, zip(*spent, strict=True))) for name, spent in found.items()}


def row(
    what: str, ours: float, unit: str, beside: str = "", baseline: float | None = None, *,
    ratio: float | None = None, better: str = "less", goal: Goal | None = None, size: tuple[int, int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One line of the table; `ratio`, which the goal is about, is ours / baseline if it is not given.

    `better`: whether "more" or "less" of it is. `size`: points and their width, for what is drawn over them.
    """
    if ratio is None and baseline:
        ratio = ours / baseline
    met = None if goal is None or ratio is None else goal.is_met(ratio)
    return {
        "what": what, "ours": float(ours), "beside": beside, "baseline": baseline, "unit": unit,
        "ratio": ratio, "better": "" if ratio is None else better,
        "goal": None if goal is None else str(goal), "met": met,
        **dict(zip(("points", "width"), size or (None, None), strict=True)),
    }  # fmt: skip


def speed(
    what: str, ours: Spent, beside: str, baseline: Spent, goal: Goal | None = None, *, clock: bool = False
) -> list[dict[str, Any]]:
    """Two lines: the speed of ours over that of the baseline, by seconds of all cores and of the clock.

    The goal is about those of all cores, or with `clock` about the others: a disk is waited for.
    """
    goals = (None, goal) if clock else (goal, None)
    return [
        row(what, mine, unit, beside, theirs, ratio=theirs / mine, better="more", goal=one)
        for mine, theirs, unit, one in zip(ours, baseline, ("CPU s", "wall s"), goals, strict=True)
    ]


def frame(rows: list[dict[str, Any]], program: str) -> pl.DataFrame:
    """The table of a program."""
    return pl.DataFrame([{"program": program, **one} for one in rows], schema=COLUMNS)


def show(table: pl.DataFrame) -> None:
    """Print a table, in four digits."""
    numbers = pl.col(pl.Float64).round_sig_figs(4)
    shown = table.drop("points", "width").with_columns(
        numbers, met=pl.col("met").replace_strict({True: "yes", False: "no"}, default="")
    )
    render(shown, "table")


def machine() -> dict[str, Any]:
    """What a figure cannot do without: versions, cores, system, commit, and how busy the machine was."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "system": platform.platform(),
        "load": os.getloadavg()[0],
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
    return done.stdout.strip()


def peak_megabytes() -> float:
    """The largest memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def parser(description: str | None) -> argparse.ArgumentParser:
    """What every program takes: --quick, and --json for `python tests/bench`."""
    made = argparse.ArgumentParser(description=description, allow_abbrev=False)
    made.add_argument("--quick", action="store_true", help="smaller sizes: seconds, not minutes")
    made.add_argument("--json", type=Path, help="also write the rows of the table there")
    return made


def finish(asked: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Print a program's table with its peak memory, and write it if that was asked for."""
    rows.append(row("largest memory of the process", peak_megabytes(), "MB"))
    table = frame(rows, Path(sys.argv[0]).stem)
    show(table)
    facts = machine()
    print(f"{facts['cores']} cores, load {facts['load']:.1f}, OMP_NUM_THREADS={facts['threads']}")
    if asked.json:
        asked.json.write_text(table.write_json())
