"""As it ran, and as it was replayed: how far interventions that stores have both ways are apart."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import polars as pl

from actstore.store import Store
from actstore_analyze.knockout.replayed import KnockoutReplayed
from actstore_analyze.knockout.study import Knockout
from actstore_analyze.patch.replayed import Replayed
from actstore_analyze.patch.study import KEYS as PATCHED
from actstore_analyze.patch.study import Patched
from actstore_analyze.report.causal import moved
from actstore_analyze.report.experiments import Experiment, Shown
from actstore_analyze.study.conditions import specs
from actstore_analyze.study.knocked import KEYS as BLOCKED
from actstore_analyze.study.knocked import as_knocked
from actstore_analyze.study.study import n_layers

__all__ = ["CAPTION", "METHODS", "compared"]

EXACT = 2e-5  # within which the two ways are called equal
COMPARED = ["similarity", "baseline", "accuracy", "accuracy_before", "sign_flips"]  # of patches
CAPTION = "Largest difference between what ran at extraction and what was replayed from a store on a CPU"
METHODS = (
    "As it ran, and replayed: patches of the same pairs at the same role and point, and knockouts of the same "
    "attention, of the same weights and as many of the same samples; the largest absolute difference of any number of "
    "the two tables, "
    f"over all layers that both have. Equal: within {EXACT:g}; a share of n samples changes by 1 / n where one of them "
    "was undecided, as ties of 16-bit logits are."
)


class Both(NamedTuple):
    """One intervention both ways: where it ran and was replayed, its numbers' types, how many values of how many
    samples were compared, the largest difference and where it is, and whether each way shows a null."""

    ran: str
    replayed: str
    intervention: str
    dtype: str
    values: int
    n: int
    largest: float
    at: str
    verdict: str


def compared(experiments: Sequence[Experiment]) -> pl.DataFrame:
    """A row of Both for each intervention that the experiments have both ways."""
    shown = [answer for one in experiments for answer in one.shown]
    pairs = [(one, other) for one in shown for other in shown if _made(one.subject.store) == _made(other.subject.store)]
    rows = [row for ran, replayed in pairs for row in (*_patches(ran, replayed), *_knockouts(ran, replayed))]
    return pl.DataFrame(rows, schema=list(Both._fields), orient="row")


def _made(store: Store) -> dict[str, Any]:
    """Which weights saw which samples, and in which number type."""
    recipe = store.run.get("recipe") or {}
    run = {name: store.run.get(name) for name in ("weights_sha256", "dtype", "seed", "blocked")}
    return {**run, **{name: recipe.get(name) for name in ("samples", "prompt")}}


def _patches(ran: Shown, replayed: Shown) -> Iterator[Both]:
    call = replayed.calls[0]
    if not isinstance(ran.calls[0], Patched) or not isinstance(call, Replayed) or ran.calls[0].sql != call.sql:
        return
    usual = Replayed(layers=call.layers, role=call.role, point=call.point, pairs=call.pairs, by=call.by)
    same = {**call.parameters, "method": None, "tolerance": None, "forced": False}
    if same != usual.parameters:  # means, vectors, other weights: nothing of the kind has run
        return
    wanted = {tuple(pair.split(":")) for pair in call.pairs}
    for (patch, role, point), rows in ran.table.group_by("patch", "role", "point", maintain_order=True):
        spec = specs(ran.subject.store, *PATCHED)[f"{patch}-l{rows['layer'][0]}"][0]
        pairs = {tuple(map(str, pair)) for pair in spec["pairs"]}
        if (role, point, spec.get("by", "label"), pairs) != (call.role, call.point, call.by, wanted):
            continue
        both = rows.join(replayed.table, on="layer", suffix=" replayed")
        if both.height and (both["n"] == both["n replayed"]).all():
            verdicts = [moved(side) for side in (rows, replayed.table)]
            where = {name: pl.format("{} at layer {}", pl.lit(name), "layer") for name in COMPARED}
            yield _both(ran, replayed, f"{patch} ({point})", both, where, verdicts)


def _knockouts(ran: Shown, replayed: Shown) -> Iterator[Both]:
    online, call = ran.calls[0], replayed.calls[0]
    if not isinstance(online, Knockout) or not isinstance(call, KnockoutReplayed) or call.blocked is None:
        return
    layers = n_layers(ran.subject.store)
    of = (online.sql, online.label, online.k, online.role, online.layers)
    if of != (call.sql, call.label, call.k, "last", (layers,)) or call.limit or call.model or call.dtype:
        return
    sides = [specs(ran.subject.store, *BLOCKED), call.blocked]
    ours, theirs = ({as_knocked(name, spec[0], layers)[1:]: spec for name, spec in side.items()} for side in sides)
    for key, spec in theirs.items():
        for other in [one for one, its in ours.items() if its == spec]:
            tables = [_of(table, which) for table, which in ((ran.table, other), (replayed.table, key))]
            both = tables[0].join(tables[1], on="metric", suffix=" replayed")
            if both.height and all((both[one] == both[f"{one} replayed"]).all() for one in ("n", "repeats")):
                name = other[0] + (f", last {other[1]} blocks" if other[1] not in (None, layers) else "")
                yield _both(ran, replayed, name, both, {"value": pl.col("metric")}, [])


def _of(table: pl.DataFrame, key: tuple[str, int | None, str | None]) -> pl.DataFrame:
    """Rows of one knockout: its name and window, in a mode."""
    knockout, window, mode = key
    same_mode = pl.lit(value=True) if "mode" not in table.columns else pl.col("mode").eq_missing(pl.lit(mode))
    return table.filter(pl.col("knockout") == knockout, pl.col("window").eq_missing(pl.lit(window)), same_mode)


def _both(
    ran: Shown, replayed: Shown, name: str, table: pl.DataFrame, where: dict[str, pl.Expr], moves: Sequence[bool | None]
) -> Both:
    """The row of a joined table, of the columns `where` has with what says where each value is."""
    off = pl.concat(
        table.select(off=(pl.col(column) - pl.col(f"{column} replayed")).abs().cast(pl.Float64), at=at)
        for column, at in where.items()
    ).drop_nulls()
    off = off.filter(pl.col("off").is_not_nan())
    most, at = off.sort("off", descending=True, maintain_order=True).row(0)
    dtype = str(ran.subject.store.run.get("dtype"))
    told = [f"equal within {EXACT:g}" if most <= EXACT else f"not equal within {EXACT:g}"]
    told += ["a null both ways"] if [*moves] == [False, False] else []
    told += ["the patch carries what the source says, both ways"] if [*moves] == [True, True] else []
    told += ["the two ways disagree on what the patch does"] if len({*moves}) == 2 else []
    n = int(table.select(pl.col("n").max()).item())
    return Both(
        ran.subject.title, replayed.subject.title, name, dtype, off.height, n, most, at,
        "; ".join(told),
    )  # fmt: skip
