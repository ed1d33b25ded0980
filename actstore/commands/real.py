"""The demo on real weights: what is fetched and run, one command after another, and the report about it."""

from collections.abc import Callable, Iterator
from pathlib import Path

TABLE = ("--format", "table")
ROLES = ("--roles", "word-country,last")
PICTURED = ("--roles", "first-image,last-image,image-mean,last")
SAID = (
    "select prompt_order, avg((trim(next_token) = label)::int) as said_its_group, count(*) n from samples group by all"
)
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


def openmoji(out: Path) -> Iterator[list[str]]:
    """What a language model that knows words makes of pictures, through a linear map that ships."""
    store = str(out / "openmoji")
    seen = "from rows where prompt_order = 'image-text'"
    yield ["weights", "get", "smollm2-135m", "dinov2-small", "openmoji"]
    yield ["extract", "openmoji", store]
    yield ["info", store, *TABLE]
    yield ["query", store, SAID, *TABLE]
    yield ["overlap", store, seen, *PICTURED, "--label", "label", "-k", "10", *TABLE]
    yield ["lens", store, seen, "--roles", "image,last", "--positions", "4", *TABLE]
    yield ["gap", store, *TABLE]
    yield ["attention", store, seen, *TABLE]
    yield ["dimension", store, seen, *PICTURED, *TABLE]
    yield ["outliers", store, seen, *PICTURED, *TABLE]
    yield ["sae", store, seen, "--saes", "openmoji-mapped", "--figure", str(out / "openmoji-sae.png"), *TABLE]
    yield ["verify", store]


PARTS: dict[str, Callable[[Path], Iterator[list[str]]]] = {
    "capitals": capitals,
    "openmoji": openmoji,
}  # by their stores
