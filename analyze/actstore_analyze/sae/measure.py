"""How well a sparse autoencoder rebuilds vectors, and controls that show what of it is due to their structure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, UndefinedError
from actstore_analyze.devices import HOST, Device
from actstore_analyze.neighbors import parse

__all__ = [
    "Autoencoder",
    "Moments",
    "Reconstruction",
    "Sums",
    "apart",
    "gaussian_like",
    "moments",
    "reconstruction",
    "rotated",
    "rotation",
    "sums",
]

Floats = NDArray[np.float64]
Rebuilt = tuple[NDArray[np.integer], NDArray[np.floating]]
ROWS = 1024  # vectors rebuilt at a time: each row of the decoder is read once for them, which stay in the cache
CACHE_BYTES = 1 << 18  # float64 rows of a block
MOST_LEFT = 1e-24  # of the mean's squared length, where nothing but its rounding is left of the variance


class Autoencoder(Protocol):
    """Anything that turns vectors (n, d) into features (n, n_features) and back."""

    def encode(self, x: NDArray[np.floating], /) -> NDArray[np.floating]:
        """Features of vectors."""

    def decode(self, features: NDArray[np.floating], /) -> NDArray[np.floating]:
        """Vectors of features."""


@runtime_checkable
class Rebuilding(Autoencoder, Protocol):
    """An autoencoder that rebuilds vectors by their active features alone."""

    n_features: int

    def rebuild(self, x: NDArray[np.floating], /) -> Rebuilt:
        """Active features of each vector (n,), and the vectors rebuilt (n, d)."""


@runtime_checkable
class Placed(Autoencoder, Protocol):
    """An autoencoder on a device, where what it rebuilds is compared, too."""

    device: Device
    n_features: int

    def rebuilt(self, x: Any, /) -> tuple[Any, Any]:
        """As `rebuild` of `Rebuilding`, of vectors on the device, there."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Averages over n vectors, each with its weight.

    squared_error: |x - x'|^2, summed over dimensions; mse: the same per dimension; l0: active features;
    l0_fraction: their share of all; fvu: squared error / variance of x (NaN if that is 0);
    cosine: between x and x'; relative_error: |x - x'| / |x|.
    """

    n: int
    squared_error: float
    mse: float
    l0: float
    l0_fraction: float
    fvu: float
    cosine: float
    relative_error: float


@dataclass(frozen=True, slots=True)
class Sums:
    """What `reconstruction` needs of some vectors; those of several parts add up with `+`."""

    n: int
    weight: float
    n_features: int
    mean: Floats
    scatter: float
    squared_error: float
    active: float
    cosine: float
    relative_error: float

    def __add__(self, other: "Sums") -> "Sums":
        if (self.n_features, len(self.mean)) != (other.n_features, len(other.mean)):
            raise ActstoreError(
                f"sums of {len(self.mean)} dimensions and {self.n_features} features do not add to "
                f"{len(other.mean)} and {other.n_features}: they are of another model or autoencoder"
            )
        weight = self.weight + other.weight
        apart = other.mean - self.mean
        return Sums(
            n=self.n + other.n,
            weight=weight,
            n_features=self.n_features,
            mean=self.mean + apart * (other.weight / weight),
            # Chan, Golub, LeVeque (1979): no cancellation, however far the mean is from 0
            scatter=self.scatter + other.scatter + float(apart @ apart) * self.weight * other.weight / weight,
            squared_error=self.squared_error + other.squared_error,
            active=self.active + other.active,
            cosine=self.cosine + other.cosine,
            relative_error=self.relative_error + other.relative_error,
        )

    def finish(self) -> Reconstruction:
        """The averages."""
        squared_error = self.squared_error / self.weight
        varies = self.scatter > MOST_LEFT * self.weight * float(self.mean @ self.mean)
        return Reconstruction(
            n=self.n,
            squared_error=squared_error,
            mse=squared_error / len(self.mean),
            l0=self.active / self.weight,
            l0_fraction=self.active / self.weight / self.n_features,
            fvu=self.squared_error / self.scatter if varies else float("nan"),
            cosine=self.cosine / self.weight,
            relative_error=self.relative_error / self.weight,
        )


def reconstruction(x: NDArray[np.number], sae: Autoencoder, *, batch: int = 4096) -> Reconstruction:
    """How well an autoencoder rebuilds vectors x (n, d), averaged over vectors, `batch` of them at a time.

    "How Visual Representations Map to Language Feature Space in Multimodal LLMs" (Venhoff et al.): its E_l is
    squared_error, its S_l l0_fraction; its figures show mse. Every vector counts the same; for the authors' average of
    the averages of examples, give `sums` the weights 1 / (vectors of the example).
    Raises ActstoreError for no vectors, NaN or infinity, a zero vector, and an autoencoder of other dimensions.

    >>> class Positive:
    ...     def encode(self, x):
    ...         return np.maximum(x, 0)
    ...
    ...     def decode(self, features):
    ...         return features
    >>> found = reconstruction(np.array([[3.0, 4.0], [3.0, -4.0]]), Positive())
    >>> found.squared_error, found.mse, found.l0, found.l0_fraction, found.fvu, found.relative_error
    (8.0, 4.0, 1.5, 0.75, 0.5, 0.4)
    """
    points = parse(x)
    if not len(points) or batch < 1:
        raise ActstoreError(f"{len(points)} vectors in batches of {batch}: nothing to rebuild")
    total = sums(points[:batch], sae)
    for start in range(batch, len(points), batch):
        total += sums(points[start : start + batch], sae)
    return total.finish()


def sums(x: NDArray[np.number], sae: Autoencoder, weights: Floats | None = None) -> Sums:
    """The sums of one part of the vectors (n, d) with weights (n,), 1 by default; add those of the parts and `finish`.

    With weights 1 / (vectors of its example) for each vector, the averages are those of the examples' averages.
    Vectors are rebuilt in float32, of active features alone where the autoencoder can, and compared in float64.
    """
    return reduce(add, (one[0] for one in _pieces(x, sae, np.zeros(len(x), np.int64), weights)))


def apart(
    x: NDArray[np.number], sae: Autoencoder, parts: NDArray[np.integer], weights: Floats | None = None
) -> dict[int, Sums]:
    """As `sums`, of the vectors of each part apart; parts (n,): the number of the part that a vector is of."""
    found: dict[int, Sums] = {}
    for piece in _pieces(x, sae, parts, weights):
        found |= {part: found[part] + own if part in found else own for part, own in piece.items()}
    return found


def _pieces(
    x: NDArray[np.number], sae: Autoencoder, parts: NDArray[np.integer], weights: Floats | None
) -> Iterator[dict[int, Sums]]:
    points = parse(x)
    w = _weights(points, weights)
    zero = np.flatnonzero(~points.any(axis=1))
    if len(zero):
        raise UndefinedError(f"row {zero[0]} is a zero vector: its relative error has no meaning; leave it out")
    for start in range(0, len(points), ROWS):
        rows = slice(start, start + ROWS)
        yield _sums(points[rows], w[rows], sae, parts[rows])


class _Parts(NamedTuple):
    """The number of the part that each vector is of (n,), and the weight of each part (m,)."""

    of: NDArray[np.integer]
    weight: Floats


class _Compared(NamedTuple):
    """Vectors (n, d) beside those rebuilt: active features of n_features, and in float64 the means (m, d) of the parts,
    squared norms of either, their products, squared differences, and squared distances from the part's mean; else (n,).
    """

    n_features: int
    active: NDArray[np.integer]
    means: Floats
    squares: Floats
    rebuilt_squares: Floats
    products: Floats
    errors: Floats
    apart: Floats


def _compared(points: NDArray[np.floating], sae: Autoencoder, w: Floats, parts: _Parts) -> _Compared:
    """w (n,): how much each vector counts in the mean of its part."""
    if isinstance(sae, Rebuilding):
        (active, rebuilt), n_features = sae.rebuild(points), sae.n_features
    else:
        features = sae.encode(points)
        active, rebuilt, n_features = np.count_nonzero(features, axis=1), sae.decode(features), features.shape[1]
    _check(points.shape, rebuilt.shape)
    means = np.empty((len(parts.weight), points.shape[1]))
    for part in range(len(means)):
        own = np.flatnonzero(parts.of == part)
        means[part] = np.einsum("n,nd->d", w[own], points[own], dtype=np.float64) / parts.weight[part]
    squares, rebuilt_squares, products, errors, apart = np.empty((5, len(points)))
    step = max(1, CACHE_BYTES // (8 * points.shape[1]))
    for start in range(0, len(points), step):
        rows = slice(start, start + step)
        x, other = points[rows].astype(np.float64), rebuilt[rows].astype(np.float64)
        squares[rows], rebuilt_squares[rows] = np.vecdot(x, x), np.vecdot(other, other)
        products[rows] = np.vecdot(x, other)
        other -= x
        errors[rows] = np.vecdot(other, other)
        x -= means[parts.of[rows]]
        apart[rows] = np.vecdot(x, x)
    return _Compared(n_features, active, means, squares, rebuilt_squares, products, errors, apart)


def _compared_there(points: NDArray[np.floating], sae: Placed, w: Floats, parts: _Parts) -> _Compared:
    """The same on the device of the autoencoder; what comes back is one number a vector, and the means."""
    device = sae.device
    there = device.put(points)
    active, rebuilt = sae.rebuilt(there if points.dtype == np.float32 else device.put(points.astype(np.float32)))
    _check(points.shape, tuple(rebuilt.shape))
    shares = np.zeros((len(parts.weight), len(points)))
    shares[parts.of, np.arange(len(points))] = w / parts.weight[parts.of]
    x, other = device.wide(there), device.wide(rebuilt)
    means = device.put(shares) @ x
    away = x - means[device.put(parts.of)]
    pairs = (x, x), (other, other), (x, other), (other - x, other - x), (away, away)
    found = [device.get(device.xp.einsum("nd,nd->n", *pair)) for pair in pairs]
    return _Compared(sae.n_features, device.get(active), device.get(means), *found)


def _check(given: tuple[int, ...], rebuilt: tuple[int, ...]) -> None:
    if rebuilt != given:
        raise ActstoreError(f"vectors of shape {given} come back as {rebuilt}; take the autoencoder of this model")


def _sums(points: NDArray[np.floating], w: Floats, sae: Autoencoder, parts: NDArray[np.integer]) -> dict[int, Sums]:
    """Of ROWS vectors at most."""
    names, part_of = np.unique(parts, return_inverse=True)
    within = _Parts(part_of, np.bincount(part_of, w).astype(np.float64))
    found = _compared_there(points, sae, w, within) if isinstance(sae, Placed) else _compared(points, sae, w, within)
    lengths, rebuilt_lengths = np.sqrt(found.squares), np.sqrt(found.rebuilt_squares)
    cosines = found.products / np.where(rebuilt_lengths == 0, 1, lengths * rebuilt_lengths)
    each = (found.apart, found.errors, found.active, cosines, np.sqrt(found.errors) / lengths)
    totals = np.array([np.bincount(part_of, w * values) for values in each])
    counts = np.bincount(part_of)
    return {
        int(name): Sums(
            n=int(counts[i]),
            weight=float(within.weight[i]),
            n_features=found.n_features,
            mean=found.means[i],
            scatter=float(totals[0, i]),
            squared_error=float(totals[1, i]),
            active=float(totals[2, i]),
            cosine=float(totals[3, i]),
            relative_error=float(totals[4, i]),
        )
        for i, name in enumerate(names)
    }


def _weights(points: NDArray[np.floating], weights: Floats | None) -> Floats:
    return np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)


def rotation(d: int, seed: int) -> Floats:
    """A random rotation or reflection (d, d), Haar measure.

    >>> turn = rotation(3, seed=0)
    >>> bool(np.allclose(turn @ turn.T, np.eye(3)))
    True
    """
    basis, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    turned: Floats = basis * np.sign(np.diag(triangle))  # Mezzadri (2007): without the signs not uniform
    return turned


def rotated(x: NDArray[np.number], seed: int) -> NDArray[np.floating]:
    """Vectors x (n, d) under a random `rotation`: same lengths and angles, other axes.

    A control: features that mean something are lost, geometry is not.

    >>> x = np.array([[3.0, 4.0, 0.0]])
    >>> round(float(np.linalg.norm(rotated(x, 0))), 12)
    5.0
    """
    points = parse(x)
    return (points @ rotation(points.shape[1], seed)).astype(points.dtype)


@dataclass(frozen=True)
class Moments:
    """Weighted mean (d,) and scatter matrix of n vectors, of it the lower triangle (d (d + 1) / 2,), row after row;
    those of several parts add up with `+`.
    """

    n: int
    weight: float
    mean: Floats
    lower: Floats

    def __add__(self, other: "Moments") -> "Moments":
        weight = self.weight + other.weight
        apart = other.mean - self.mean
        between = _lower(np.outer(apart, apart)) * (self.weight * other.weight / weight)
        return Moments(
            n=self.n + other.n,
            weight=weight,
            mean=self.mean + apart * (other.weight / weight),
            lower=self.lower + other.lower + between,
        )

    @property
    def scatter(self) -> Floats:
        """The scatter matrix (d, d)."""
        half = np.zeros((len(self.mean),) * 2)
        half[np.tri(len(half), dtype=np.bool_)] = self.lower
        return half + np.tril(half, -1).T

    def draw(
        self, count: int, seed: int | Sequence[int], *, batch: int = 4096, device: Device = HOST
    ) -> Iterator[Floats]:
        """`count` Gaussian vectors of this mean and covariance, at most `batch` at a time, multiplied on a device."""
        rng, root = np.random.default_rng(seed), device.put(self._root)
        for start in range(0, count, batch):
            normal = rng.standard_normal((min(batch, count - start), len(self.mean)))
            yield self.mean + device.get(device.put(normal) @ root)

    @cached_property
    def _root(self) -> Floats:
        """The matrix R = R^T with R R = covariance: no axis has a sign in it, which rounding would choose."""
        if self.n < 2:
            raise ActstoreError(f"{self.n} vectors have no covariance; give two at least")
        values, axes = np.linalg.eigh(self.scatter * (self.n / (self.n - 1) / self.weight))
        root: Floats = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T  # tiny negative eigenvalues are rounding
        return root


def moments(x: NDArray[np.number], weights: Floats | None = None, *, device: Device = HOST) -> Moments:
    """The moments of one part of the vectors (n, d) with weights (n,), 1 by default, multiplied on a device."""
    points = parse(x).astype(np.float64)
    w = _weights(points, weights)
    mean = w @ points / w.sum()
    apart = device.put((points - mean) * np.sqrt(w)[:, None])
    return Moments(len(points), float(w.sum()), mean, _lower(device.get(apart.T @ apart)))


def _lower(matrix: Floats) -> Floats:
    """The lower triangle (d (d + 1) / 2,) of a matrix (d, d), row after row."""
    return matrix[np.tri(len(matrix), dtype=np.bool_)]


def gaussian_like(x: NDArray[np.number], seed: int) -> NDArray[np.floating]:
    """As many Gaussian vectors (n, d) as x, with the mean and covariance of x and nothing else of it.

    >>> x = np.random.default_rng(1).random((4000, 2)) @ np.array([[1.0, 0.0], [5.0, 9.0]])
    >>> like = gaussian_like(x, 0)
    >>> bool(np.allclose(np.cov(like.T), np.cov(x.T), rtol=0.1))
    True
    """
    points = parse(x)
    return np.concatenate(list(moments(points).draw(len(points), seed))).astype(points.dtype)
