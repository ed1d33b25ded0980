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
WITH_IMAGE = f"{HELD_OUT} and prompt_order = 'image-text'"
INTERVENED = ("fusion", "gated")
INTERVENTIONS = ("knockout", "patch")
FEWER = {"fusion": ("--set", "samples.limit=200")}  # enough to see a null
REPLAYED = {"fusion": ("--replay", "eoi"), "gated": ("--replay", "eoi", "--mode", "pre")}
STEERED = {"seven": "label = 'seven'", "other": "label <> 'seven'"}  # steer towards the first, away from the second
LAYER = "4"
PAIRS = "zero:one,one:two,two:three,three:four,four:five,five:six,six:seven,seven:eight,eight:nine,nine:zero"
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
        yield ["overlap", str(out / name), WITH_IMAGE, "--roles", ROLES[name], "--label", "label", "-k", "10", *TABLE]
    yield ["sae", str(out / "mapped"), HELD_OUT, "--saes", "digits-mapped", "--layers", "0,4,8", *TABLE]
    for name in INTERVENED:
        for what in (*INTERVENTIONS, "replay"):
            yield ["extract", f"digits-{name}-{what}", str(out / f"{name}-{what}"), *FEWER.get(name, ())]
        yield ["knockout", str(out / f"{name}-knockout"), "-k", "10", *TABLE]
        yield ["patch", str(out / f"{name}-patch"), *TABLE]
    yield from replaying(out)
    yield from steering(out)
    for name in STORES:
        yield ["verify", str(out / name)]
    stores = [
        *STORES,
        *(f"{name}-{what}" for name in INTERVENED for what in (*INTERVENTIONS, "replay")),
        "gated-steer",
    ]
    yield ["report", *(str(out / name) for name in stores), "-o", str(out / "report.html")]


def replaying(out: Path) -> Iterator[list[str]]:
    """The same once more, from stored residual streams and the decoder alone: the report compares both ways."""
    for name, knockout in REPLAYED.items():
        store = str(out / f"{name}-replay")
        yield ["patch", store, "--pairs", PAIRS, *TABLE]
        yield ["knockout", store, *knockout, "-k", "10", *TABLE]


def steering(out: Path) -> Iterator[list[str]]:
    """Steer the gated model by the mean vector of a class less that of the others."""
    for name, where in STEERED.items():
        query = f"from rows where role = 'eoi' and split = 'train' and {where}"
        yield ["export", str(out / "gated"), query, "--layer", LAYER, "-o", str(out / f"{name}.npy")]
    files = f"vector = '{out / 'seven.npy'}', minus = '{out / 'other.npy'}'"
    condition = f"{{ name = 'eoi-steer', layers = [{LAYER}], {files}, scale = [1, 2, 4] }}"
    yield ["extract", "digits-gated-steer", str(out / "gated-steer"), "--set", f"conditions=[{condition}]"]
