"""What a report found, in the fewest sentences: numbers of its tables, and what they may mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from actstore_analyze.knockout.study import WORDS
from actstore_analyze.report import causal
from actstore_analyze.report.experiments import Experiment, Shown
from actstore_analyze.study.conditions import NONE

__all__ = ["MOST", "Finding", "findings", "to_see"]

MOST = 3
STORES = 4  # that one sentence names


class Finding(NamedTuple):
    """A sentence with its figures, and what that may mean."""

    text: str
    meaning: str


@dataclass(frozen=True)
class Peak:
    """Where a measure's curve is at its end: the words for it, its column, and whether the least counts."""

    words: str
    column: str
    meaning: str
    least: bool = False
    at: str = "role"
    decimals: int = 3


READ = "it can be read there; that does not say that the model uses it there"
PEAKS = {
    "overlap": Peak("label overlap χ", "overlap", f"Well above chance, the label is read from the neighbours: {READ}."),
    "probe": Peak("held-out accuracy of a linear probe", "accuracy", f"A label that a probe finds: {READ}."),
    "lens": Peak(
        "probability of the label's token", "probability", "From there on the stream holds what is said next."
    ),
    "dimension": Peak("intrinsic dimension", "id", "Where it is largest, the vectors vary in most ways.", decimals=1),
    "cluster": Peak("homogeneity of the clusters", "homogeneity", "Near 1, density alone finds the classes."),
    "attention": Peak("share of the text's attention to the image", "share", "Drawing attention is not yet carrying "
                      "information: a knockout tells.", at="name"),
    "outliers": Peak("share of the squared norm in one dimension", "top_share", "Where one dimension holds most, "
                     "distances are its distances: measure again without it (--drop-dims)."),
    "data_overlap": Peak("overlap of neighbours", "overlap", "Near 1, both arrange the samples alike."),
    "sae": Peak("variance left unexplained by the autoencoder", "fvu", "Near 0 it rebuilds the vectors; above 1 it is "
                "worse than their mean.", least=True),
    "gap": Peak("median cosine of text and image", "median", "Near 0, they share no direction."),
}  # fmt: skip


def findings(experiments: Sequence[Experiment]) -> list[Finding]:
    """At most MOST: what interventions show first, then what can be read, each kind of measure once: that of most
    stores.
    """
    found: dict[str, Finding] = {}
    ordered = sorted(experiments, key=lambda one: -len(one.shown))
    for make in (_knocked, _patched, _peaked):
        for one in ordered:
            kind = one.call.measure if make is _peaked else make.__name__
            if kind not in found and (finding := make(one)) is not None:
                found[kind] = finding
    return list(found.values())[:MOST]


def to_see(experiment: Experiment) -> str | None:
    """What to look for in the figure of a measure: where its curves are at their ends."""
    peak = PEAKS.get(experiment.call.measure)
    if peak is None or not (found := list(_peaks(experiment, peak))):
        return None
    return f"To see: {peak.words} is {'least' if peak.least else 'highest'} {_listed(found)}."


def _peaked(experiment: Experiment) -> Finding | None:
    peak = PEAKS.get(experiment.call.measure)
    if peak is None or not (found := list(_peaks(experiment, peak))):
        return None
    return Finding(f"The {peak.words} is {'least' if peak.least else 'highest'} {_listed(found)}.", peak.meaning)


def _peaks(experiment: Experiment, peak: Peak) -> Iterator[str]:
    for shown in experiment.shown:
        if peak.column not in shown.table.columns:
            continue
        known = shown.table.filter(pl.col(peak.column).cast(pl.Float64).is_finite())
        if "control" in known.columns:  # made up, to compare with
            known = known.filter(pl.col("control").is_null())
        if peak.at == "name":  # many positions taken together
            known = known.filter(~pl.col("name").str.starts_with("internal"))
        if known.height:
            row = known.sort(peak.column, descending=not peak.least, maintain_order=True).row(0, named=True)
            yield _where(row, peak, shown)


def _where(row: dict[str, Any], peak: Peak, shown: Shown) -> str:
    told = [row.get(peak.at), row.get("condition") if row.get("condition") != NONE else None]
    named = "".join(f"{one}, " for one in told if one)
    value, ends = row[peak.column], [row.get(f"{peak.column}_{end}", row.get(end)) for end in ("low", "high")]
    known = all(end is not None and end == end for end in ends)
    beside = [" to ".join(f"{end:.{peak.decimals}f}" for end in ends)] if known else []
    beside += [f"chance {row['chance']:.3f}"] if row.get("chance") is not None else []
    bracket = f" ({'; '.join(beside)})" if beside else ""
    return f"at {named}layer {row['layer']}, in {shown.subject.title}: {value:.{peak.decimals}f}{bracket}"


def _listed(found: Sequence[str]) -> str:
    more = len(found) - STORES
    return "; ".join(found[:STORES]) + (f"; and {more} more below" if more > 0 else "")


def _knocked(experiment: Experiment) -> Finding | None:
    """What is left without attention to some positions: of the knockout that most stores have."""
    told = {
        shown.subject.title: found
        for shown in experiment.shown
        if {"knockout", "window"} <= {*shown.table.columns} and (found := causal.falls(shown.table)) is not None
    }
    names = [name for one in told.values() for name in one.told]
    if not names:
        return None
    most = max(dict.fromkeys(names), key=names.count)
    shown = [(title, one) for title, one in told.items() if most in one.told][:STORES]
    parts = [
        f"{WORDS[one.metric]} goes from {one.before.partition(' (')[0]} to {after} in {title}{verdict}"
        for title, one in shown
        for after, verdict in [one.told[most]]
    ]
    return Finding(
        f"With attention to {most} blocked, {'; '.join(parts)}.",
        "Where it falls, what the answer needs passes through those positions; where it does not, the model has it "
        "from elsewhere too.",
    )


def _patched(experiment: Experiment) -> Finding | None:
    """Whether another sample's vector carries its answer: the first patch of each store."""
    found = [
        (shown.subject.title, *causal.effect(shown.table))
        for shown in experiment.shown
        if {"patch", "accuracy_before"} <= {*shown.table.columns}
    ]
    if not found:
        return None
    told = [f"{what} in {title}{verdict}" for title, what, verdict in found[:STORES]]
    return Finding(
        f"With another sample's vector in its place, {'; '.join(told)}.",
        "Where a patch carries the source's answer, what that position holds at that layer is used; a null says that "
        "nothing of it is read there.",
    )
