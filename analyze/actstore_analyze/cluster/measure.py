"""Clusters of points: Advanced Density Peaks, HDBSCAN, and how pure they are in known labels."""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
from hdbscan import HDBSCAN
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import homogeneity_completeness_v_measure

from actstore.errors import ActstoreError, UndefinedError
from actstore_analyze.cluster.density import knn_log_density
from actstore_analyze.dimension.measure import gride_from
from actstore_analyze.neighbors import Neighbors, nearest
from actstore_analyze.neighbors import parse as parse_points
from actstore_analyze.study.intervals import FEW, Bounds, halves, of_halves, share, student, wilson

__all__ = [
    "ENOUGH",
    "MAXK",
    "Clusters",
    "Homogeneity",
    "agreement_of_halves",
    "bounds",
    "density_peaks",
    "density_peaks_from",
    "hdbscan",
    "homogeneity",
    "lowest",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAXK = 100  # neighbours that settle which points are on a border
ENOUGH = FEW // 4  # halves with as many clusters as the whole, of which the spread is taken
ROUNDED = 12  # digits of a homogeneity, which sums of logarithms miss 0 and 1 by
_ID_RANK = 16  # the scale at which The Narrow Gate takes the intrinsic dimension


@dataclass(frozen=True, slots=True)
class Clusters:
    """Clusters 0..C-1 of n points.

    labels (n,): cluster of each point, -1 for halo and noise; centers (C,): the point at each cluster's peak.
    By density peaks only: log_density (n,); border_log_density (C, C), -inf where two clusters do not touch;
    dimension: the intrinsic dimension the densities assume.
    """

    labels: Ints
    centers: Ints
    log_density: Floats | None = None
    border_log_density: Floats | None = None
    dimension: float | None = None


@dataclass(frozen=True, slots=True)
class Homogeneity:
    """How far clusters and labels say the same, each in [0, 1]; kept: the share of points that was scored."""

    homogeneity: float
    completeness: float
    v: float
    kept: float


def density_peaks(
    x: NDArray[np.number],
    *,
    z: float = 1.2,
    k: int = 15,
    maxk: int = MAXK,
    metric: str = "normalised",
    dimension: float | None = None,
    halo: bool = False,
    groups: NDArray[np.integer] | None = None,
) -> Clusters:
    """Clusters of points x (n, d) around the significant peaks of their density (Advanced Density Peaks).

    z: confidence, in standard errors, below which two peaks are one; k: neighbours that make a density;
    maxk: neighbours that settle which points are on a border; dimension: by default Gride's at rank 16;
    halo: label -1 the points less dense than their cluster's highest border;
    groups (n,): points of one group are never each other's neighbours.
    d'Errico, Facco, Laio, Rodriguez, "Automatic topography of high-dimensional data sets by non-parametric
    density peak clustering" (2021), label for label as DADApy with a constant k wherever densities differ;
    equal densities go by the lowest index.
    Raises ActstoreError where `nearest` does, for k > maxk, and for points without an intrinsic dimension.

    >>> x = np.concatenate([np.random.default_rng(0).normal(c, 1, (200, 2)) for c in (0, 9)])
    >>> np.bincount(density_peaks(x, metric="euclidean", maxk=50).labels).tolist()
    [200, 200]
    """
    most = others(len(x), groups)
    found = nearest(x, min(max(maxk, _ID_RANK), max(k, most)), metric=metric, groups=groups)
    dimension = _dimension(found) if dimension is None else dimension
    return density_peaks_from(found.first(min(maxk, most)), z=z, k=k, dimension=dimension, halo=halo)


def others(n: int, groups: NDArray[np.integer] | None) -> int:
    """How many neighbours each of n points has outside its group at least."""
    return n - (1 if groups is None else int(np.unique(groups, return_counts=True)[1].max()))


def density_peaks_from(
    neighbors: Neighbors,
    *,
    z: float = 1.2,
    k: int = 15,
    dimension: float | None = None,
    halo: bool = False,
    among_all: Neighbors | None = None,
) -> Clusters:
    """As `density_peaks`, from neighbours found before; all of them take part in settling the borders.

    among_all: of points that are drawn, the neighbours among all there are, which densities and the dimension are of;
    peaks and borders are those of the points that are drawn, whose neighbours among themselves `neighbors` are.
    """
    dense = neighbors if among_all is None else among_all
    dimension = _dimension(dense) if dimension is None else dimension
    log_density = knn_log_density(dense, dimension, k)
    centers, labels = _peaks(log_density, neighbors.indices[:, :k])
    pairs, heights = _saddles(labels, centers, log_density, neighbors.indices, k)
    survivors, borders, final = _merged(log_density[centers], pairs, heights, 2 * z * k**-0.5)
    labels = final[labels]
    if halo:
        labels = np.where(log_density < borders.max(axis=1)[labels], -1, labels)
    return Clusters(labels, centers[survivors], log_density, borders, dimension)


def _dimension(neighbors: Neighbors) -> float:
    """Gride's dimension at rank 16."""
    if neighbors.indices.shape[1] < _ID_RANK:
        raise ActstoreError(
            f"{neighbors.indices.shape[1]} neighbours are too few for the intrinsic dimension at rank {_ID_RANK}; "
            "take maxk >= 16 or give the dimension"
        )
    dimension = gride_from(neighbors, _ID_RANK)["id"][-1]
    if dimension is None:
        raise UndefinedError("the points coincide, or nearly so: they have no intrinsic dimension; give one to go on")
    return float(dimension)


def _peaks(log_density: Floats, near: Ints) -> tuple[Ints, Ints]:
    """Centres, no less dense than all near points (n, k), and the centre's number to which each point climbs."""
    n = len(log_density)
    is_center = log_density >= log_density[near].max(axis=1)
    turn = np.empty(n, np.int64)
    turn[np.argsort(-log_density, kind="stable")] = np.arange(n)
    labelled = is_center[near] | (turn[near] < turn[:, None])
    up = np.where(is_center, np.arange(n), near[np.arange(n), labelled.argmax(axis=1)])
    while (up != (higher := up[up])).any():
        up = higher
    centers = np.flatnonzero(is_center)
    return centers, np.searchsorted(centers, up)


def _saddles(labels: Ints, centers: Ints, log_density: Floats, near: Ints, k: int) -> tuple[Ints, Floats]:
    """Every two touching clusters (pairs, 2), and the log density (pairs,) of the densest point on their border.

    A point p of one cluster is on the border with the nearest foreign point q among its k neighbours,
    unless another point of p's cluster is nearer to q.
    """
    foreign = labels[near[:, :k]] != labels[:, None]
    foreign[centers] = False
    p = np.flatnonzero(foreign.any(axis=1))
    q = near[p, foreign[p].argmax(axis=1)]
    first = _nearest_of_own(p, q, labels, near[:, :k])
    left = first < 0  # the k nearest of q settle most
    first[left] = _nearest_of_own(p[left], q[left], labels, near[:, k:])
    on_border = (first == p) | (first < 0)
    sides = np.sort(np.column_stack([labels[p], labels[q]])[on_border], axis=1)
    pairs, which = np.unique(sides, axis=0, return_inverse=True)
    heights = np.full(len(pairs), -np.inf)
    np.maximum.at(heights, which, log_density[p[on_border]])
    return pairs, heights


def _nearest_of_own(p: Ints, q: Ints, labels: Ints, near: Ints) -> Ints:
    """The first point in the list of each q (m,) that is of the cluster of the p (m,) beside it, -1 where none is."""
    own = labels[near[q]] == labels[p, None]
    if not own.shape[1]:
        return np.full(len(p), -1)
    return np.where(own.any(axis=1), near[q, own.argmax(axis=1)], -1)


def _merged(peaks: Floats, pairs: Ints, heights: Floats, margin: float) -> tuple[Ints, Floats, Ints]:
    """Surviving clusters, the log densities of their borders, and the survivor's place for every cluster.

    The two clusters with the highest border less than `margin` below the lower of their peaks become one, which keeps
    the higher peak and towards a third cluster the higher border; and again until no border is that high.
    """
    touching: list[dict[int, float]] = [{} for _ in peaks]
    queue: list[tuple[float, int, int]] = []
    for (i, j), height in zip(pairs.tolist(), heights.tolist(), strict=True):
        touching[i][j] = touching[j][i] = height
        if min(peaks[i], peaks[j]) - height < margin:
            queue.append((-height, i, j))
    heapify(queue)
    into = np.arange(len(peaks))
    while queue:
        height, i, j = heappop(queue)
        if touching[i].get(j) != -height:
            continue  # merged or raised since
        keep, lose = (i, j) if peaks[i] >= peaks[j] else (j, i)
        into[lose] = keep
        del touching[keep][lose], touching[lose][keep]
        for other, height in touching[lose].items():
            del touching[other][lose]
            highest = max(height, touching[keep].get(other, -np.inf))
            touching[keep][other] = touching[other][keep] = highest
            if min(peaks[keep], peaks[other]) - highest < margin:
                heappush(queue, (-highest, min(keep, other), max(keep, other)))
        touching[lose].clear()
    while (into != into[into]).any():
        into = into[into]
    survivors, final = np.unique(into, return_inverse=True)
    borders = np.full((len(survivors), len(survivors)), -np.inf)
    for place, survivor in enumerate(survivors):
        for other, height in touching[survivor].items():
            borders[place, final[other]] = height
    return survivors, borders, final


def agreement_of_halves(
    neighbors: Neighbors,
    truth: NDArray[np.integer],
    labels: NDArray[np.integer],
    peaks: Callable[..., Clusters],
    *,
    k: int,
    min_size: int,
    among_all: Neighbors | None = None,
    n: int | None = None,
) -> Floats:
    """Of the density peaks of halves of the points homogeneity, completeness and v, without clusters of fewer than half
    of min_size, and homogeneity with all: (FEW, 4), NaN where a half has none.

    labels (n,): the clusters of all points. Two clusters that touch are one in some halves, which have fewer points,
    and homogeneity is another then: where ENOUGH halves have as many clusters as the whole, the others are NaN.
    neighbors: `reach(MAXK)` of all points, or all there are. among_all: of points that are drawn, `reach(max(k, 16))`
    among all n, of which the halves are.
    """

    def of(chosen: Ints) -> tuple[float, ...]:
        if among_all is None:
            which, dense, own = chosen, None, neighbors.among(chosen, MAXK)
        else:
            which = np.flatnonzero(np.isin(among_all.points, chosen))
            dense, own = among_all.among(chosen, max(k, _ID_RANK)), neighbors.among(which, MAXK)
        known = min(one.indices.shape[1] for one in (own, dense) if one is not None)
        nothing = (np.nan,) * 6
        if not len(which) or known < max(k, _ID_RANK):
            return nothing
        try:
            found = peaks(own, among_all=dense).labels
        except UndefinedError:
            return nothing
        sizes = -(-min_size // 2), 1
        large, every = (homogeneity(truth[which], found, min_size=size) for size in sizes)
        numbers = (_number(found, size) for size in sizes)
        return large.homogeneity, large.completeness, large.v, every.homogeneity, *numbers

    drawn = halves(of, len(truth) if n is None else n, FEW)
    values = drawn[:, :4]
    for columns, number, size in ((slice(3), drawn[:, 4], min_size), (slice(3, 4), drawn[:, 5], 1)):
        others = np.not_equal(number, _number(labels, size))
        if np.count_nonzero(~others) >= ENOUGH:
            values[others, columns] = np.nan
    return values


def _number(labels: NDArray[np.integer], size: int) -> int:
    """How many clusters have as many points."""
    return int((np.bincount(labels[labels >= 0], minlength=1) >= size).sum())


def hdbscan(
    x: NDArray[np.number], *, min_cluster_size: int = 50, min_samples: int | None = None, metric: str = "normalised"
) -> Clusters:
    """Clusters of points x (n, d) by HDBSCAN, noise labelled -1; centers are the points most certain to belong.

    min_samples: neighbours that make a core point, by default min_cluster_size; metric: `normalised`
    or `euclidean`. Campello, Moulavi, Sander (2013), by the package hdbscan. Which of tied distances it takes hangs on
    the order of the points: they are handed to it sorted, so that the same points in any order have the same clusters.
    Raises ActstoreError for other metrics, for min_cluster_size < 2 and for points that hold NaN or infinity.

    >>> x = np.concatenate([np.random.default_rng(0).normal(c, 1, (200, 2)) for c in (0, 30)])
    >>> np.unique(hdbscan(x, metric="euclidean", min_samples=5).labels).tolist()
    [0, 1]
    """
    if metric not in ("normalised", "euclidean"):
        raise ActstoreError(f"metric {metric!r}: HDBSCAN takes normalised or euclidean (cosine orders as normalised)")
    if min_cluster_size < 2:
        raise ActstoreError(f"min_cluster_size = {min_cluster_size}: a cluster has two points at least")
    points = parse_points(x, metric)
    if len(points) < 2:
        raise ActstoreError(f"{len(points)} points cannot be clustered; select more rows")
    model = HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=min(min_samples or min_cluster_size, len(points) - 1),
        approx_min_span_tree=False,
        core_dist_n_jobs=1,
    )
    order = _sorted(points)
    model.fit(points[order])
    labels, certain = np.empty(len(points), np.int64), np.empty(len(points))
    labels[order], certain[order] = model.labels_, model.probabilities_
    certainty = [np.where(labels == label, certain, -1) for label in range(labels.max() + 1)]
    return Clusters(labels, np.array([np.argmax(member) for member in certainty], np.int64))


def _sorted(points: NDArray[np.floating]) -> Ints:
    """The points' indices (n,) in an order that hangs on their values alone."""
    rows = np.ascontiguousarray(points + 0.0)  # -0.0 becomes 0.0
    order: Ints = rows.view(np.dtype((np.void, rows.strides[0]))).ravel().argsort(kind="stable")
    return order


def homogeneity(truth: ArrayLike, labels: ArrayLike, *, min_size: int = 50) -> Homogeneity:
    """Homogeneity, completeness and V-measure of cluster labels (n,) against true ones (n,), and the share kept.

    Points labelled -1 (halo, noise) and clusters with fewer than min_size points are left out first, as in
    The Narrow Gate (Serra et al.); min_size=1 keeps every cluster. NaN where nothing is left.
    Rosenberg, Hirschberg (2007): h = 1 - H(truth | labels) / H(truth), 1 if H(truth) = 0.
    Raises ActstoreError for unequal lengths and for no points.

    >>> homogeneity(["cat", "cat", "dog", "dog"], [0, 0, 1, -1], min_size=2)
    Homogeneity(homogeneity=1.0, completeness=1.0, v=1.0, kept=0.5)
    """
    true, clusters = np.asarray(truth), np.asarray(labels)
    if true.shape != clusters.shape or true.ndim != 1 or not len(true):
        raise ActstoreError(
            f"true labels of shape {true.shape}, clusters of shape {clusters.shape}; give one per point"
        )
    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    kept = (sizes[cluster] >= min_size) & (clusters != -1)
    if not kept.any():
        return Homogeneity(np.nan, np.nan, np.nan, 0.0)
    h, c, v = homogeneity_completeness_v_measure(true[kept], clusters[kept])
    return Homogeneity(float(h), float(c), float(v), float(kept.mean()))


def bounds(value: float, drawn: Floats | None, labels: ArrayLike) -> Bounds | tuple[None, None]:
    """The 95 % interval of a homogeneity, from those of halves (FEW,), see `agreement_of_halves`; None without them.

    labels (n,): those whose entropy it is of, -1 for none; of 1 the lower end is `lowest` of these, if it is less.
    """
    known = np.asarray(labels)[np.asarray(labels) != -1]
    if drawn is None or np.isnan(value) or np.isnan(error := of_halves(drawn, len(known), ENOUGH)):
        return None, None
    rounded = min(max(round(value, ROUNDED), 0.0), 1.0)
    low, high = share(rounded, error, len(known), student(drawn))
    return (min(low, lowest(known)) if rounded == 1 else low), high


def lowest(truth: ArrayLike) -> float:
    """The lower 95 % end of a homogeneity of 1 of n vectors with labels (n,): what Fano's inequality leaves of it if as
    many were in clusters of others as Wilson's interval of none allows.

    >>> float(round(lowest(np.repeat([0, 1, 2], 100)), 3))
    0.93
    """
    counts = np.unique(np.asarray(truth), return_counts=True)[1]
    shares, wrong = counts / counts.sum(), wilson(0, int(counts.sum()))[1]
    mixed = -wrong * np.log(wrong) - (1 - wrong) * np.log1p(-wrong) + wrong * np.log(max(len(counts) - 1, 1))
    entropy = -float((shares * np.log(shares)).sum())
    return max(0.0, 1 - mixed / entropy) if entropy else 1.0
