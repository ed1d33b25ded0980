"""Which published curves belong behind the figure of a call."""

import polars as pl

from actstore_analyze import published
from actstore_analyze.clusters import Cluster
from actstore_analyze.cross_modal import CrossModal
from actstore_analyze.curves import Overlap
from actstore_analyze.gaps import Gap
from actstore_analyze.knockout import Knockout
from actstore_analyze.patched import Patched
from actstore_analyze.per_layer import PerLayer
from actstore_analyze.replays import Replayed

__all__ = ["reference"]


def reference(call: PerLayer, model: str) -> pl.DataFrame | None:
    """What the papers published of a model in the same experiment; None where they published nothing.

    Of gaps: of signed cosines; of clusters: of both modalities together. Raises ActstoreError for an unknown model.
    """
    published.check(model)
    if isinstance(call, Overlap):
        return published.overlap(model) if model.lower() in published.MODELS else None
    if isinstance(call, Gap):
        return None if call.absolute else published.gap(model)
    if isinstance(call, Cluster):
        return None if call.roles or call.label != "modality" else published.homogeneity(model)
    if isinstance(call, CrossModal):
        return published.attention(model)
    if isinstance(call, Knockout):
        return published.windows(model)
    return published.patching(model) if isinstance(call, Patched | Replayed) else None
