"""Linear probes: how well a label can be read from vectors, on vectors held out."""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from actstore.errors import ActstoreError
from actstore_analyze.neighbors import parse

__all__ = ["FOLDED", "Asked", "Probed", "asked_folded", "asked_held_out", "folded", "held_out"]

FOLDED = (
    4 / 3
)  # times that of independent points is the variance of an accuracy over folds, which share training points
MOST_STEPS = 1000
FEW_VALUES = 2**22  # of fewer, threads wait for each other longer than they work, where others work, too


class Probed(NamedTuple):
    """How many of n held-out points were named right, and how many a guess of the commonest label would."""

    right: int
    guessed: int
    n: int


class Asked(NamedTuple):
    """Of the points that were held out (n,), in their order: whether the probe, and a guess, named each right."""

    right: NDArray[np.bool]
    guessed: NDArray[np.bool]

    @property
    def counted(self) -> Probed:
        """How many."""
        return Probed(int(self.right.sum()), int(self.guessed.sum()), len(self.right))


def held_out(x: NDArray[np.number], y: ArrayLike, train: NDArray[np.bool], *, c: float = 1.0) -> Probed:
    """A probe of points x (n, d) and labels y (n,), fitted on the points of `train`, asked about the others.

    Logistic regression on standardised dimensions, with an L2 penalty of 1 / c.
    Raises ActstoreError for NaN and infinity, and if either side has no points or all training points one label.

    >>> x = np.array([[0.0], [1.0], [10.0], [11.0], [0.5], [10.5]])
    >>> held_out(x, [0, 0, 1, 1, 0, 1], np.array([True, True, True, True, False, False]))
    Probed(right=2, guessed=1, n=2)
    """
    return asked_held_out(x, y, train, c=c).counted


def asked_held_out(x: NDArray[np.number], y: ArrayLike, train: NDArray[np.bool], *, c: float = 1.0) -> Asked:
    """As `held_out`, point by point."""
    points, labels = parse(x), np.asarray(y)
    if not train.any() or train.all():
        raise ActstoreError(
            f"{int(train.sum())} points to train on and {int((~train).sum())} to hold out; take some of both"
        )
    if (labels[train] == labels[train][0]).all():
        raise ActstoreError(f"all training points have the label '{labels[train][0]}'; a probe needs two")
    values, counts = np.unique(labels[train], return_counts=True)
    said = _fitted(points[train], labels[train], c).predict(points[~train])
    truth = labels[~train]
    return Asked(said == truth, truth == values[counts.argmax()])


def folded(x: NDArray[np.number], y: ArrayLike, *, folds: int = 5, seed: int = 0, c: float = 1.0) -> Probed:
    """As `held_out`, every point held out once: by stratified folds, drawn by seed.

    Raises ActstoreError also for a label with fewer points than folds.

    >>> x = np.repeat([[0.0], [5.0]], 10, axis=0) + np.linspace(0, 1, 20)[:, None]
    >>> folded(x, np.repeat(["a", "b"], 10)).right
    20
    """
    return asked_folded(x, y, folds=folds, seed=seed, c=c).counted


def asked_folded(x: NDArray[np.number], y: ArrayLike, *, folds: int = 5, seed: int = 0, c: float = 1.0) -> Asked:
    """As `folded`, point by point."""
    labels = np.asarray(y)
    values, counts = np.unique(labels, return_counts=True)
    if counts.min() < folds:
        raise ActstoreError(
            f"label '{values[counts.argmin()]}' has {counts.min()} points, too few for {folds} folds; "
            f"take fewer folds, or leave it out"
        )
    found = Asked(np.zeros(len(labels), np.bool), np.zeros(len(labels), np.bool))
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.empty(len(labels)), labels)
    for train, test in splits:
        asked = asked_held_out(x, labels, np.isin(np.arange(len(labels)), train), c=c)
        found.right[test], found.guessed[test] = asked
    return found


def _fitted(x: NDArray[np.number], y: NDArray[np.generic], c: float) -> Pipeline:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=MOST_STEPS))
    with threadpool_limits(1 if x.size < FEW_VALUES else None, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # far along by then; the accuracy hardly moves
        return probe.fit(x.astype(np.float64), y)
