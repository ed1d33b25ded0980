"""The measures by name, each loaded when it is asked for: for the report, never for a measure."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from actstore_analyze.charts.charts import Draw
from actstore_analyze.study.study import Study

__all__ = ["MEASURES", "Measure", "load"]

# In the order of a report: where the study of a measure is, and the figure of its table.
MEASURES = {
    "overlap": ("overlap.study:Overlap", "overlap.figure:overlap"),
    "gap": ("gap.study:Gap", "gap.figure:gap"),
    "cluster": ("cluster.study:Cluster", "cluster.figure:cluster"),
    "attention": ("attention.study:CrossModal", "attention.figure:attention"),
    "knockout": ("knockout.study:Knockout", "knockout.figure:knockout"),
    "knockout_replayed": ("knockout.replayed:KnockoutReplayed", "knockout.figure:knockout"),
    "patched": ("patch.study:Patched", "patch.figure:patched"),
    "replayed": ("patch.replayed:Replayed", "patch.figure:patched"),
    "dimension": ("dimension.study:Dimension", "dimension.figure:dimension"),
    "probe": ("probe.study:Probe", "probe.figure:probe"),
    "lens": ("lens.study:LogitLens", "lens.figure:lens"),
    "data_overlap": ("overlap.between:DataOverlap", "overlap.figure:data_overlap"),
    "cka": ("cka.study:Cka", "cka.figure:cka"),
    "outliers": ("outliers.study:Outliers", "outliers.figure:outliers"),
    "sae": ("sae.study:Rebuilt", "sae.figure:rebuilt"),
    "sae_match": ("sae.matches:Matched", "sae.figure:matched"),
}


@dataclass(frozen=True)
class Measure:
    """What is asked of a store, and the figure of the table that comes out."""

    study: type[Study]
    draw: Draw


@cache
def load(name: str) -> Measure:
    """The measure of that name.

    >>> load("gap").study.measure
    'gap'
    """
    study, draw = map(_named, MEASURES[name])
    return Measure(study, draw)


def _named(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(f"actstore_analyze.{module}"), name)
