"""What interventions show, in sentences made of their numbers: falls and nulls, never more."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from actstore_analyze.knockout.figure import everywhere
from actstore_analyze.knockout.study import WORDS
from actstore_analyze.study.conditions import NONE
from actstore_analyze.study.intervals import wilson

__all__ = ["effect", "falls", "knockouts", "moved", "patches"]

TELLING = ("accuracy", "vqa_accuracy", "cider", "overlap")  # the first that a store has is told
POINTS = {"residual": "the residual stream", "attention-input": "what attention reads, from a block on,"}
MOVED = {
    True: ": the patch carries what the source says",
    False: ": a null, the patch does not move what the model says",
    None: "",
}
ERRORS = 2.0  # standard errors within which two means are not told apart


class Falls(NamedTuple):
    """The metric that is told, its value before, and by the name of a knockout its value after, and a verdict."""

    metric: str
    before: str
    told: dict[str, tuple[str, str]]


def knockouts(title: str, table: pl.DataFrame) -> str:
    """A sentence on the knockouts of a store in all blocks, from the table of `actstore knockout`."""
    found = falls(table)
    if found is None:
        return f"{title}: the store has no samples of the model as it is, to compare its knockouts with."
    each = [f"with attention to {name} blocked {after}{verdict}" for name, (after, verdict) in found.told.items()]
    told = "; ".join(each) or "no knockout is of all blocks"
    return f"{title}: {WORDS[found.metric]} {found.before} as it is; {told}."


def falls(table: pl.DataFrame) -> Falls | None:
    """What the knockouts of a store in all blocks leave; None without samples of the model as it is."""
    metric = next(one for one in (*TELLING, *table["metric"]) if one in set(table["metric"]))
    whole = everywhere(table.filter(pl.col("metric") == metric)).unique("knockout", keep="first", maintain_order=True)
    rows = list(whole.iter_rows(named=True))
    as_is = next((row for row in rows if row["knockout"] == NONE), None)
    if as_is is None:
        return None
    told = {row["name"]: (_number(row), _verdict(row, as_is)) for row in rows if row is not as_is}
    return Falls(metric, _number(as_is), told)


def _number(row: dict[str, float | None]) -> str:
    value, low, high = row["value"], row["low"], row["high"]
    if value is None or value != value:
        return "undefined (all vectors are the same)"
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")


def _verdict(row: dict[str, float | None], as_is: dict[str, float | None]) -> str:
    """Whether the 95 % intervals tell the two apart, and chance; nothing where there are none."""
    low, high, chance = row["low"], row["high"], row["chance"]
    least, most = row.get("difference_low"), row.get("difference_high")
    low_before, high_before = as_is["low"], as_is["high"]
    if least is None and low is not None and high is not None and low_before is not None and high_before is not None:
        least, most = low - high_before, high - low_before  # of no pairs of samples: whether the two meet
    if low is None or high is None or least is None or most is None:
        return ""
    if least <= 0 <= most:
        return ", no change that the intervals show"
    if least > 0:
        return ", a rise"
    return ", a fall to chance" if chance is not None and low <= chance <= high else ", a fall"


def patches(title: str, table: pl.DataFrame) -> Iterator[str]:
    """A sentence on each patch of a store: its largest effect, beside what there is without it."""
    for (patch, role, point), rows in table.group_by("patch", "role", "point", maintain_order=True):
        alone = table.select(pl.struct("role", "point").n_unique()).item() == table["patch"].n_unique()
        which = f"{POINTS.get(str(point), point)} at {role}" + ("" if alone else f" ({patch})")
        yield f"{title}, {which}: {_effect(rows)}."


def effect(table: pl.DataFrame) -> tuple[str, str]:
    """The largest effect of the first patch of a store, in few words, and whether it is one."""
    rows = next(iter(table.partition_by("patch", "role", "point", maintain_order=True)))
    where = f"{POINTS.get(rows['point'][0], rows['point'][0])} at {rows['role'][0]}"
    verdict = MOVED[moved(rows)].replace(":", ",", 1)
    if not rows["accuracy"].count():
        best = _largest(rows, "similarity")
        return (
            f"{where} makes it at most {best['similarity'] or 0:.3f} similar to the source (layer {best['layer']})",
            verdict,
        )
    most = _largest(rows, "accuracy")
    before = "" if most["accuracy_before"] is None else f", {most['accuracy_before']:.3f} without"
    interval = f"{most['low']:.3f} to {most['high']:.3f}; layer {most['layer']}{before}"
    told = f"{most['accuracy']:.3f} ({interval}) of {most['n']:,} pairs"
    return f"{where} makes the source's word preferred in at most {told}", verdict


def moved(rows: pl.DataFrame) -> bool | None:
    """Whether a patch's largest effect over layers differs from what there is without it; None where nothing tells."""
    if rows["accuracy"].count():
        most = _largest(rows, "accuracy")
        if most["accuracy_before"] is None:
            return None
        if most.get("accuracy_difference_low") is not None:
            return bool(most["accuracy_difference_low"] > 0)
        return bool(most["low"] > wilson(round(most["accuracy_before"] * most["n"]), most["n"])[1])
    best = _largest(rows, "similarity")
    if best.get("difference_low") is not None:
        return bool(best["difference_low"] > 0)
    if best["baseline"] is None or best["similarity_sd"] is None or best["baseline_sd"] is None:
        return None
    error = ERRORS * (best["similarity_sd"] + best["baseline_sd"]) / best["n"] ** 0.5
    return bool(best["similarity"] - best["baseline"] > error)


def _effect(rows: pl.DataFrame) -> str:
    """The largest similarity and accuracy over layers, and whether they differ from those without the patch."""
    best = _largest(rows, "similarity")
    text = f"the similarity to the source is at most {best['similarity'] or 0:.3f}, at layer {best['layer']}"
    if best["similarity"] is None:
        text = "the source is no sample, which would say something itself"
    if best["baseline"] is not None:
        text += f", and {best['baseline']:.3f} without the patch"
    if rows["accuracy"].count():
        most = _largest(rows, "accuracy")
        what = "samples" if best["similarity"] is None else "pairs"
        text += (
            f"; the source's word is preferred in at most {most['accuracy']:.3f} of {most['n']:,} {what} "
            f"({most['low']:.3f} to {most['high']:.3f}), at layer {most['layer']}"
        )
        if most["accuracy_before"] is not None:
            text += f", and in {most['accuracy_before']:.3f} without it"
    return text + MOVED[moved(rows)]


def _largest(rows: pl.DataFrame, column: str) -> dict[str, Any]:
    """The row of the layer where a column is largest."""
    return rows.sort(column, descending=True, nulls_last=True, maintain_order=True).row(0, named=True)
