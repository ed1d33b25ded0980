"""The measures that commands and reports know: how each is called and drawn."""

from dataclasses import dataclass

from actstore_analyze import drawings, figures, knockout_figures, lens_figures, patched_figures, sae_figures
from actstore_analyze.agreement import DataOverlap
from actstore_analyze.clusters import Cluster
from actstore_analyze.cross_modal import CrossModal
from actstore_analyze.curves import Overlap
from actstore_analyze.dimensions import Dimension
from actstore_analyze.drawings import Draw
from actstore_analyze.gaps import Gap
from actstore_analyze.knockout import Knockout
from actstore_analyze.knockouts_replayed import KnockoutReplayed
from actstore_analyze.lenses import LogitLens
from actstore_analyze.outliers import Outliers
from actstore_analyze.patched import Patched
from actstore_analyze.per_layer import PerLayer
from actstore_analyze.probes import Probe
from actstore_analyze.replays import Replayed
from actstore_analyze.sae_curves import Rebuilt
from actstore_analyze.sae_matches import Matched

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A measure: its call, and the figure of its table."""

    call: type[PerLayer]
    draw: Draw


KINDS = {  # in the order of a report
    "overlap": Kind(Overlap, figures.overlap),
    "gap": Kind(Gap, drawings.gap),
    "cluster": Kind(Cluster, drawings.cluster),
    "attention": Kind(CrossModal, drawings.attention),
    "knockout": Kind(Knockout, knockout_figures.knockout),
    "knockout_replayed": Kind(KnockoutReplayed, knockout_figures.knockout),
    "patched": Kind(Patched, patched_figures.patched),
    "replayed": Kind(Replayed, patched_figures.patched),
    "dimension": Kind(Dimension, drawings.dimension),
    "probe": Kind(Probe, drawings.probe),
    "lens": Kind(LogitLens, lens_figures.lens),
    "data_overlap": Kind(DataOverlap, drawings.data_overlap),
    "outliers": Kind(Outliers, drawings.outliers),
    "sae": Kind(Rebuilt, sae_figures.rebuilt),
    "sae_match": Kind(Matched, sae_figures.matched),
}
