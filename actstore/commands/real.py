"""The demo on real weights: what is fetched and run, one command after another, and the report about it."""

from collections.abc import Callable, Iterator
from pathlib import Path

TABLE = ("--format", "table")
ROLES = ("--roles", "word-country,last")
ONE = "samples.wordings=['city-of']"  # of three: in minutes


def steps(out: Path) -> Iterator[list[str]]:
    """The arguments of each command, in order: every part's own, then one report of all stores."""
    for part in PARTS.values():
        yield from part(out)
    yield ["report", *(str(out / name) for name in PARTS), "-o", str(out / "report.html")]


def capitals(out: Path) -> Iterator[list[str]]:
    """Where a country becomes its capital in SmolLM2-135M: text alone."""
    store = str(out / "capitals")
    plain = "from rows where condition = 'none'"
    yield ["weights", "get", "smollm2-135m"]
    yield ["extract", "capitals", store, "--set", ONE]
    yield ["info", store, *TABLE]
    yield ["knockout", store, "-k", "5", *TABLE]
    yield ["patch", store, "--figure", str(out / "capitals-patch.png"), *TABLE]
    yield ["lens", store, plain, *ROLES, *TABLE]
    yield ["overlap", store, plain, *ROLES, "--label", "label", "-k", "5", *TABLE]
    yield ["probe", store, plain, *ROLES, "--folds", "3", *TABLE]
    yield ["dimension", store, plain, *ROLES, *TABLE]
    yield ["outliers", store, plain, *ROLES, *TABLE]
    yield ["verify", store]


PARTS: dict[str, Callable[[Path], Iterator[list[str]]]] = {"capitals": capitals}  # by their stores
