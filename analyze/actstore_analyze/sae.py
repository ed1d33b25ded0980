"""How well a sparse autoencoder rebuilds vectors, and controls that show what of it is due to their structure."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import parse

__all__ = ["Autoencoder", "Reconstruction", "Sums", "gaussian_like", "reconstruction", "rotated", "sums"]

Floats = NDArray[np.float64]


class Autoencoder(Protocol):
    """Anything that turns vectors (n, d) into features (n, n_features) and back."""

    def encode(self, x: NDArray[np.floating], /) -> NDArray[np.floating]:
        """Features of vectors."""

    def decode(self, features: NDArray[np.floating], /) -> NDArray[np.floating]:
        """Vectors of features."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Averages over n vectors.

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
        n = self.n + other.n
        apart = other.mean - self.mean
        return Sums(
            n=n,
            n_features=self.n_features,
            mean=self.mean + apart * (other.n / n),
            # Chan, Golub, LeVeque (1979): no cancellation, however far the mean is from 0
            scatter=self.scatter + other.scatter + float(apart @ apart) * self.n * other.n / n,
            squared_error=self.squared_error + other.squared_error,
            active=self.active + other.active,
            cosine=self.cosine + other.cosine,
            relative_error=self.relative_error + other.relative_error,
        )

    def finish(self) -> Reconstruction:
        """The averages."""
        squared_error = self.squared_error / self.n
        return Reconstruction(
            n=self.n,
            squared_error=squared_error,
            mse=squared_error / len(self.mean),
            l0=self.active / self.n,
            l0_fraction=self.active / self.n / self.n_features,
            fvu=self.squared_error / self.scatter if self.scatter > 0 else float("nan"),
            cosine=self.cosine / self.n,
            relative_error=self.relative_error / self.n,
        )


def reconstruction(x: NDArray[np.number], sae: Autoencoder, *, batch: int = 4096) -> Reconstruction:
    """How well an autoencoder rebuilds vectors x (n, d), averaged over vectors, `batch` of them at a time.

    "How Visual Representations Map to Language Feature Space in Multimodal LLMs" (Venhoff et al.): its E_l is
    squared_error, its S_l l0_fraction; its figures show mse. Every vector counts the same; the authors average
    the averages of examples.
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


def sums(x: NDArray[np.number], sae: Autoencoder) -> Sums:
    """The sums of one part of the vectors; add those of the parts and `finish`."""
    given = parse(x)
    features = sae.encode(given)
    rebuilt = np.asarray(sae.decode(features), np.float64)
    points = given.astype(np.float64)
    if rebuilt.shape != points.shape:
        raise ActstoreError(
            f"vectors of shape {points.shape} come back as {rebuilt.shape}; take the autoencoder of this model"
        )
    lengths, rebuilt_lengths = np.linalg.norm(points, axis=1), np.linalg.norm(rebuilt, axis=1)
    if not lengths.all():
        raise ActstoreError(
            f"row {int(np.argmin(lengths))} is a zero vector: its relative error has no meaning; leave it out"
        )
    errors = np.square(points - rebuilt).sum(axis=1)
    products = np.vecdot(points, rebuilt)
    mean = points.mean(axis=0)
    return Sums(
        n=len(points),
        n_features=features.shape[1],
        mean=mean,
        scatter=float(np.square(points - mean).sum()),
        squared_error=float(errors.sum()),
        active=float(np.count_nonzero(features)),
        cosine=float((products / np.where(rebuilt_lengths == 0, 1, lengths * rebuilt_lengths)).sum()),
        relative_error=float((np.sqrt(errors) / lengths).sum()),
    )


def rotated(x: NDArray[np.number], seed: int) -> NDArray[np.floating]:
    """Vectors x (n, d) under a random rotation or reflection (Haar measure): same lengths and angles, other axes.

    A control: features that mean something are lost, geometry is not.

    >>> x = np.array([[3.0, 4.0, 0.0]])
    >>> round(float(np.linalg.norm(rotated(x, 0))), 12)
    5.0
    """
    points = parse(x)
    d = points.shape[1]
    basis, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))
    basis *= np.sign(np.diag(triangle))  # Mezzadri (2007): without the signs not uniform
    turned: NDArray[np.float64] = points @ basis
    return turned.astype(points.dtype)


def gaussian_like(x: NDArray[np.number], seed: int) -> NDArray[np.floating]:
    """As many Gaussian vectors (n, d) as x, with the mean and covariance of x and nothing else of it.

    >>> x = np.random.default_rng(1).random((4000, 2)) @ np.array([[1.0, 0.0], [5.0, 9.0]])
    >>> like = gaussian_like(x, 0)
    >>> bool(np.allclose(np.cov(like.T), np.cov(x.T), rtol=0.1))
    True
    """
    points = parse(x)
    if len(points) < 2:
        raise ActstoreError(f"{len(points)} vectors have no covariance; give two at least")
    drawn = np.random.default_rng(seed).multivariate_normal(
        points.mean(axis=0, dtype=np.float64),
        np.cov(points, rowvar=False).reshape(points.shape[1], -1),
        size=len(points),
        check_valid="ignore",  # tiny negative eigenvalues are rounding
        method="eigh",
    )
    return drawn.astype(points.dtype)
