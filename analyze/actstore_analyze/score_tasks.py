"""The tasks that answers are scored in: metrics of what was said, each with its 95 % interval."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.said import wilson
from actstore_analyze.scores import cider_per_image, gqa_accuracy, normalised, pope, vqa_accuracy

__all__ = ["TASKS", "Score", "Task"]

RESAMPLES, SEED = 1000, 0


class Score(NamedTuple):
    """A metric with its 95 % interval."""

    metric: str
    score: float
    low: float
    high: float


Truths = Sequence[list[str]]
Scorer = Callable[[Sequence[str], Truths], list[Score]]


@dataclass(frozen=True)
class Task:
    """How answers are scored, and the columns that may hold the truth, likeliest first."""

    score: Scorer
    columns: tuple[str, ...]


def _vqa(said: Sequence[str], truths: Truths) -> list[Score]:
    return [_mean("vqa_accuracy", np.array([vqa_accuracy(*pair) for pair in zip(said, truths, strict=True)]))]


def _cider(said: Sequence[str], truths: Truths) -> list[Score]:
    variants = {"cider": "plain", "cider_d": "d"}
    return [_mean(name, cider_per_image(said, truths, variant=variant)) for name, variant in variants.items()]


def _pope(said: Sequence[str], truths: Truths) -> list[Score]:
    """Of shares Wilson's interval, of F1 the bootstrap's."""
    true = [_only(truth) for truth in truths]
    found = pope(said, true)
    answers, labels = (np.array([text.strip().lower() for text in texts]) for texts in (said, true))
    yes = answers == "yes"
    of = {"precision": int(yes.sum()), "recall": int((labels == "yes").sum())}
    scores = [
        _share(name, round(value * of.get(name, len(said))), of.get(name, len(said)))
        for name, value in asdict(found).items()
        if name != "f1"
    ]
    hits, weight = (yes & (labels == "yes")).astype(float), yes.astype(float) + (labels == "yes")
    low, high = _bootstrapped(lambda drawn: 2 * hits[drawn].sum(axis=1) / np.maximum(weight[drawn].sum(axis=1), 1), yes)
    return [*scores[:3], Score("f1", found.f1, low, high), *scores[3:]]


def _gqa(said: Sequence[str], truths: Truths) -> list[Score]:
    right = [gqa_accuracy([one], [_only(truth)]) for one, truth in zip(said, truths, strict=True)]
    return [_share("exact_match", int(sum(right)), len(right))]


def _answers(said: Sequence[str], truths: Truths) -> list[Score]:
    """Equal to any of the answers, both sides normalised as for VQA."""
    pairs = zip(said, truths, strict=True)
    right = [normalised(one) in {normalised(truth) for truth in others} for one, others in pairs]
    return [_share("accuracy", sum(right), len(right))]


def _only(truth: Sequence[str]) -> str:
    if len(truth) != 1:
        raise ActstoreError(f"a sample has {len(truth)} true answers, this task takes one; try --task answers")
    return truth[0]


def _share(metric: str, right: int, n: int) -> Score:
    return Score(metric, right / n, *wilson(right, n)) if n else Score(metric, 0.0, 0.0, 1.0)


def _mean(metric: str, values: NDArray[np.float64]) -> Score:
    return Score(metric, float(values.mean()), *_bootstrapped(lambda drawn: values[drawn].mean(axis=1), values))


def _bootstrapped(
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], x: NDArray[Any]
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of samples (resamples, n), the samples drawn with replacement."""
    rng = np.random.default_rng(SEED)
    step = max(1, 2**22 // len(x))
    drawn = [
        statistic(rng.integers(0, len(x), (min(step, RESAMPLES - start), len(x))))
        for start in range(0, RESAMPLES, step)
    ]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return float(low), float(high)


TASKS = {
    "vqa": Task(_vqa, ("answers",)),
    "cider": Task(_cider, ("captions",)),
    "pope": Task(_pope, ("label", "answer")),
    "gqa": Task(_gqa, ("answer", "label")),
    "answers": Task(_answers, ("label", "answer", "answers")),
}
