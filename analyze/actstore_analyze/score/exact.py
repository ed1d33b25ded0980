"""Scores of answers that are right or wrong: POPE's and MME's yes and no, GQA's short answers."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from string import punctuation

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError

__all__ = ["YesNo", "gqa_accuracy", "mme_points", "pope"]


@dataclass(frozen=True, slots=True)
class YesNo:
    """Scores [0, 1] of yes-or-no answers, `yes` being the positive class; unclear: the share that is neither."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes: float
    unclear: float


def pope(answers: Sequence[str], truths: Sequence[str]) -> YesNo:
    """Scores of answers to yes-or-no questions on which objects an image shows.

    An answer counts if, case and surrounding spaces aside, it is exactly `yes` or `no`, as in lmms-eval; any other is
    unclear: wrong, and missed where the truth is yes (lmms-eval leaves it out of recall and F1, POPE's own program
    takes it for a yes). A ratio without a case is 0.
    Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (2023).
    Raises ActstoreError for unequal or zero numbers, and for a truth other than yes or no.

    >>> pope(["yes", "No", "yes", "perhaps"], ["yes", "no", "no", "yes"])
    YesNo(accuracy=0.5, precision=0.5, recall=0.5, f1=0.5, yes=0.5, unclear=0.25)
    """
    pairs = [(said.strip().lower(), true.strip().lower()) for said, true in _pairs(answers, truths)]
    strange = [i for i, (_, true) in enumerate(pairs) if true not in ("yes", "no")]
    if strange:
        raise ActstoreError(f"truth {strange[0]} is {truths[strange[0]]!r}; POPE knows yes and no")
    n_hits = pairs.count(("yes", "yes"))
    n_said, n_true = (sum(pair[side] == "yes" for pair in pairs) for side in (0, 1))
    return YesNo(
        accuracy=sum(said == true for said, true in pairs) / len(pairs),
        precision=_ratio(n_hits, n_said),
        recall=_ratio(n_hits, n_true),
        f1=_ratio(2 * n_hits, n_said + n_true),
        yes=n_said / len(pairs),
        unclear=sum(said not in ("yes", "no") for said, _ in pairs) / len(pairs),
    )


def gqa_accuracy(answers: Sequence[str], truths: Sequence[str]) -> float:
    """Share [0, 1] of answers equal to the true one, case, punctuation and surrounding spaces aside, as lmms-eval.

    Hudson, Manning, "GQA" (2019). Raises ActstoreError for unequal or zero numbers.

    >>> gqa_accuracy(["A dog.", "red"], ["a dog", "blue"])
    0.5
    """
    pairs = _pairs(answers, truths)
    return sum(_bare(said) == _bare(true) for said, true in pairs) / len(pairs)


def mme_points(answers: Sequence[str], truths: Sequence[str], images: Sequence[Hashable]) -> NDArray[np.float64]:
    """Points of each image of an MME task (n_images, 2), in the order of their first question: 100 times the share of
    its two questions that are right, and 100 where both are. The task's score [0, 200] is the sum of both means.

    An answer is what `yes` or `no` stands in its first four characters, yes before no, as in the official evaluation.
    Fu et al., "MME" (2023). Raises ActstoreError for an image without exactly two questions, for unequal or zero
    numbers, and for a truth other than yes or no.

    >>> mme_points(["Yes.", "no", "No, it is", "no"], ["yes", "no", "yes", "no"], ["a", "a", "b", "b"])
    array([[100., 100.],
           [ 50.,   0.]])
    """
    right: dict[Hashable, list[bool]] = {}
    for (said, true), image in zip(_pairs(answers, truths), images, strict=True):
        label = true.strip().lower()
        if label not in ("yes", "no"):
            raise ActstoreError(f"the truth about {image} is {true!r}; MME knows yes and no")
        right.setdefault(image, []).append(_yes_or_no(said) == label)
    for image, answered in right.items():
        if len(answered) != 2:
            raise ActstoreError(f"MME asks two questions about an image, {image} has {len(answered)}: leave it out")
    return np.array([[50.0 * sum(both), 100.0 * all(both)] for both in right.values()])


def _yes_or_no(answer: str) -> str | None:
    start = answer.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)


def _pairs(answers: Sequence[str], truths: Sequence[str]) -> list[tuple[str, str]]:
    if len(answers) != len(truths) or not answers:
        raise ActstoreError(f"{len(answers)} answers for {len(truths)} questions; give one per question")
    return list(zip(answers, truths, strict=True))


def _bare(answer: str) -> str:
    return answer.lower().translate(str.maketrans("", "", punctuation)).strip()


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
