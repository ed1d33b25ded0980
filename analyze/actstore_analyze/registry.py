"""The measures by name, each loaded when it is asked for: for the report, never for a measure."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from actstore_analyze.charts.charts import Draw
from actstore_analyze.charts.together import Together
from actstore_analyze.study.study import Study

__all__ = ["MEASURES", "Measure", "load"]

# In the order of a report: where the study of a measure is, the figure of its table, and that of several stores' tables
# in one panel, where there is one.
MEASURES = {
    "overlap": ("overlap.study:Overlap", "overlap.figure:overlap"),
    "gap": ("gap.study:Gap", "gap.figure:gap", "gap.figure:together"),
    "cluster": ("cluster.study:Cluster", "cluster.figure:cluster", "cluster.figure:together"),
    "attention": ("attention.study:CrossModal", "attention.figure:attention"),
    "knockout": ("knockout.study:Knockout", "knockout.figure:knockout", "knockout.together:together"),
    "knockout_replayed": (
        "knockout.replayed:KnockoutReplayed",
        "knockout.figure:knockout",
        "knockout.together:together",
    ),
    "patched": ("patch.study:Patched", "patch.figure:patched", "patch.figure:together"),
    "replayed": ("patch.replayed:Replayed", "patch.figure:patched", "patch.figure:together"),
    "dimension": ("dimension.study:Dimension", "dimension.figure:dimension"),
    "probe": ("probe.study:Probe", "probe.figure:probe"),
    "lens": ("lens.study:LogitLens", "lens.figure:lens"),
    "data_overlap": ("overlap.between:DataOverlap", "overlap.figure:data_overlap"),
    "cka": ("cka.study:Cka", "cka.figure:cka"),
    "overlap_minus": ("overlap.minus:OverlapMinus", "charts.difference:difference"),
    "gap_minus": ("gap.minus:GapMinus", "charts.difference:difference"),
    "attention_minus": ("attention.minus:AttentionMinus", "charts.difference:difference"),
    "probe_minus": ("probe.minus:ProbeMinus", "charts.difference:difference"),
    "lens_minus": ("lens.minus:LensMinus", "charts.difference:difference"),
    "score_minus": ("score.minus:ScoreMinus", "score.figure:differences"),
    "outliers": ("outliers.study:Outliers", "outliers.figure:outliers"),
    "sae": ("sae.study:Rebuilt", "sae.figure:rebuilt"),
    "sae_match": ("sae.matches:Matched", "sae.figure:matched"),
}


@dataclass(frozen=True)
class Measure:
    """What is asked of a store, the figure of the table that comes out, and that of the tables of several stores."""

    study: type[Study]
    draw: Draw
    together: Together | None = None


@cache
def load(name: str) -> Measure:
    """The measure of that name.

    >>> load("gap").study.measure
    'gap'
    """
    return Measure(*map(_named, MEASURES[name]))


def _named(place: str) -> Any:
    module, name = place.split(":")
    return getattr(import_module(f"actstore_analyze.{module}"), name)
