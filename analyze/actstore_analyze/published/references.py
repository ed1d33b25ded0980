"""Which published curves belong behind the figure of a call."""

import polars as pl

from actstore_analyze.attention.study import CrossModal
from actstore_analyze.cluster.study import Cluster
from actstore_analyze.gap.study import Gap
from actstore_analyze.knockout.study import Knockout
from actstore_analyze.overlap.study import Overlap
from actstore_analyze.patch.replayed import Replayed
from actstore_analyze.patch.study import Patched
from actstore_analyze.published import curves
from actstore_analyze.study.study import PerLayer

__all__ = ["reference"]


def reference(call: PerLayer, model: str) -> pl.DataFrame | None:
    """What the papers published of a model in the same experiment; None where they published nothing.

    Of gaps: of signed cosines; of clusters: of both modalities together. Raises ActstoreError for an unknown model.
    """
    curves.check(model)
    if isinstance(call, Overlap):
        return curves.overlap(model) if model.lower() in curves.MODELS else None
    if isinstance(call, Gap):
        return None if call.absolute else curves.gap(model)
    if isinstance(call, Cluster):
        return None if call.roles or call.label != "modality" else curves.homogeneity(model)
    if isinstance(call, CrossModal):
        return curves.attention(model)
    if isinstance(call, Knockout):
        return curves.windows(model)
    return curves.patching(model) if isinstance(call, Patched | Replayed) else None
