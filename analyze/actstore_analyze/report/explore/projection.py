"""Points in the plane: principal axes that turn least from layer to layer, t-SNE, and UMAP where it is installed."""

from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError

__all__ = ["METHODS", "Plane", "methods", "pca", "tsne", "turned", "umap"]

Floats = NDArray[np.float64]
METHODS = ("pca", "tsne", "umap")
MOST_TSNE = 10_000  # points; t-SNE of more takes minutes
SEED = 0


class Plane(NamedTuple):
    """Points (n, 2) around 0 at a mean distance of 1; share [0, 1] of the variance shown, NaN where unknown."""

    xy: Floats
    share: float


def methods() -> list[str]:
    """Those that can be had here."""
    return [name for name in METHODS if name != "umap" or find_spec("umap") is not None]


def pca(x: NDArray[np.floating], before: Floats | None = None) -> Plane:
    """The first two principal axes of x (n, d), turned towards the plane of the layer before; points at 0 where all are
    one.

    >>> plane = pca(np.array([[0.0, 0, 0], [2, 0, 0], [0, 1, 0], [2, 1, 0]]))
    >>> round(plane.share, 6), np.abs(plane.xy[:, 0]).round(3).tolist()
    (1.0, [0.894, 0.894, 0.894, 0.894])
    """
    from sklearn.decomposition import PCA

    wide: Floats = np.asarray(x, np.float64)
    if len(wide) < 2 or not (wide != wide[0]).any():
        return Plane(np.zeros((len(wide), 2)), float("nan"))
    found = PCA(n_components=min(2, *wide.shape), random_state=SEED).fit(wide)
    xy = np.zeros((len(wide), 2))
    xy[:, : found.n_components_] = found.transform(wide)
    return Plane(turned(_scaled(xy), before), float(found.explained_variance_ratio_.sum()))


def turned(xy: Floats, before: Floats | None) -> Floats:
    """The plane turned, and mirrored, to lie nearest to another: orthogonal Procrustes (Schönemann 1966)."""
    if before is None or not before.any() or not xy.any():
        return xy
    u, _, vt = np.linalg.svd(xy.T @ before)
    found: Floats = xy @ (u @ vt)
    return found


def tsne(x: NDArray[np.floating], begin: Floats) -> Plane:
    """t-SNE (van der Maaten and Hinton 2008) from a plane on; ActstoreError for too many points, or too few."""
    from sklearn.manifold import TSNE

    if not 10 <= len(x) <= MOST_TSNE:
        raise ActstoreError(f"t-SNE of {len(x)} points: it takes 10 to {MOST_TSNE}; take fewer, or PCA")
    if not begin.any():
        return Plane(begin, float("nan"))
    perplexity = min(30.0, (len(x) - 1) / 3)
    made = TSNE(n_components=2, init=begin * 1e-4, perplexity=perplexity, random_state=SEED)
    return Plane(turned(_scaled(made.fit_transform(np.asarray(x, np.float32)).astype(float)), begin), float("nan"))


def umap(x: NDArray[np.floating], begin: Floats) -> Plane:
    """UMAP (McInnes and others 2018), where umap-learn is installed."""
    from umap import UMAP

    if not begin.any():
        return Plane(begin, float("nan"))
    made = UMAP(n_components=2, init=begin * 10, random_state=SEED, n_jobs=1)
    return Plane(turned(_scaled(np.asarray(made.fit_transform(np.asarray(x, np.float32)), float)), begin), float("nan"))


def _scaled(xy: Floats) -> Floats:
    """Around 0, at a mean squared distance of 1."""
    centred = xy - xy.mean(axis=0)
    size = float(np.sqrt((centred**2).sum(axis=1).mean()))
    found: Floats = centred / size if size else centred
    return found
