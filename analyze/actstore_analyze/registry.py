"""The measures that commands and reports know: how each is called and drawn."""

from dataclasses import dataclass

from actstore_analyze.attention.study import CrossModal
from actstore_analyze.charts import charts, drawings
from actstore_analyze.charts.drawings import Draw
from actstore_analyze.cluster.study import Cluster
from actstore_analyze.dimension.study import Dimension
from actstore_analyze.gap.study import Gap
from actstore_analyze.knockout import figure as knockout_figures
from actstore_analyze.knockout.replayed import KnockoutReplayed
from actstore_analyze.knockout.study import Knockout
from actstore_analyze.lens import figure as lens_figures
from actstore_analyze.lens.study import LogitLens
from actstore_analyze.outliers.study import Outliers
from actstore_analyze.overlap.between import DataOverlap
from actstore_analyze.overlap.study import Overlap
from actstore_analyze.patch import figure as patched_figures
from actstore_analyze.patch.replayed import Replayed
from actstore_analyze.patch.study import Patched
from actstore_analyze.probe.study import Probe
from actstore_analyze.sae import figure as sae_figures
from actstore_analyze.sae.matches import Matched
from actstore_analyze.sae.study import Rebuilt
from actstore_analyze.study.study import PerLayer

__all__ = ["KINDS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A measure: its call, and the figure of its table."""

    call: type[PerLayer]
    draw: Draw


KINDS = {  # in the order of a report
    "overlap": Kind(Overlap, charts.overlap),
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
