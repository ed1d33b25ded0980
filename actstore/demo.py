"""The demo: the commands a user would type, run one after another on the models that ship with the package."""

from collections.abc import Iterator
from pathlib import Path

STORES = {"fusion": "digits-fusion", "mapped": "digits-mapped", "gated": "digits-gated"}
ROLES = {
    "fusion": "eoi,last-image,image-mean,last",
    "mapped": "last-image,image-mean,last",
    "gated": "eoi,last-image,image-mean,last",
}
HELD_OUT = "from rows where split = 'test'"
ACCURACY = (
    "select condition, avg((next_token = label)::int) as accuracy, count(*) n from samples group by all order by all"
)
TABLE = ("--format", "table")


def steps(out: Path) -> Iterator[list[str]]:
    """The arguments of each command, in order."""
    for name, recipe in STORES.items():
        yield ["extract", recipe, str(out / name)]
    yield ["info", str(out / "fusion"), *TABLE]
    yield [
        "query",
        str(out / "fusion"),
        "select role, modality, count(*) n from rows group by all order by all",
        *TABLE,
    ]
    for name in STORES:
        yield ["overlap", str(out / name), HELD_OUT, "--roles", ROLES[name], "--label", "label", "-k", "10", *TABLE]
    yield ["sae", str(out / "mapped"), HELD_OUT, "--saes", "digits-mapped", "--layers", "0,4,8", *TABLE]
    for name in ("fusion", "gated"):
        yield ["extract", f"digits-{name}-knockout", str(out / f"{name}-knockout")]
        yield ["query", str(out / f"{name}-knockout"), ACCURACY, *TABLE]
    for name in STORES:
        yield ["verify", str(out / name)]
    yield ["report", *(str(out / name) for name in STORES), "-o", str(out / "report.html")]
