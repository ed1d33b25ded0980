"""Clusters of a view's points at a layer, as a column that they can be coloured by."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.cluster.measure import density_peaks
from actstore_analyze.cluster.study import Cluster
from actstore_analyze.report.explore.view import MOST_COLOURS, View
from actstore_analyze.study.saved import calls

__all__ = ["MOST_CLUSTERED", "clustered"]

MOST_CLUSTERED = 20_000  # points
NONE = "no cluster"

Ints = NDArray[np.int64]


def clustered(view: View, layer: int) -> dict[str, Any]:
    """The clusters as names, the largest first, and the code of each point's.

    palette: by code the colour of the value that most points of the cluster have, where no larger cluster has it; none:
    the code of points without a cluster; how: what made them, or why there are none. They are density peaks, as the
    newest `actstore cluster` of the role that is saved in the store, or as it usually is.
    """
    asked = _asked(view)
    x, how = view.vectors(layer), f"density peaks: Z = {asked.z:g}, k = {asked.k}, {asked.metric}"
    try:
        labels = density_peaks(x, z=asked.z, k=asked.k, metric=asked.metric, halo=asked.halo).labels
    except ActstoreError as error:
        return {"names": [NONE], "codes": [0] * len(x), "palette": [0], "none": 0, "how": f"no clusters: {error}"}
    sizes = np.bincount(labels[labels >= 0])
    largest = np.argsort(-sizes, kind="stable")[: MOST_COLOURS - 1]
    codes = np.full(len(labels), len(largest))
    for code, number in enumerate(largest):
        codes[labels == number] = code
    names, palette = _named(view, codes, len(largest))
    rest = [] if (codes < len(largest)).all() else ["others" if len(sizes) > len(largest) else NONE]
    return {"names": names + rest, "codes": codes.tolist(), "palette": palette, "none": len(largest), "how": how}


def _asked(view: View) -> Cluster:
    """The newest saved call whose clusters are those of the role by itself, else the usual one."""
    for _, call in calls(view.store, Cluster.measure, Cluster.again):
        if view.role in call.roles and call.method == "adp" and not (call.preparation or call.apart):
            return call
    return Cluster(layers=())


def _named(view: View, codes: Ints, clusters: int) -> tuple[list[str], list[int]]:
    """The name and the colour of each cluster, by what most of its points are."""
    column = view.columns.get(view.label or "", {})
    values = np.array(column["codes"]) if "codes" in column else None
    free = [one for one in range(MOST_COLOURS - 1) if values is None or one > values.max()]
    names, palette = [], []
    for code in range(clusters):
        own = codes == code
        name, colour = f"{code + 1}: {own.sum():,} points", None
        if values is not None:
            counts = np.bincount(values[own])
            most = int(counts.argmax())
            name = f"{code + 1}: {100 * counts[most] / own.sum():.0f} % {column['names'][most]} of {own.sum():,}"
            colour = None if most in palette or most >= MOST_COLOURS - 1 else most
        if colour is None:
            left = [one for one in free if one not in palette] or [code]
            colour = left[0]
        names.append(name)
        palette.append(colour)
    return names, palette
