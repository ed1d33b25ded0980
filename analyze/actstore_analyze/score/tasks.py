"""The tasks that answers are scored in: metrics of what was said, each with its 95 % interval."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.score.captions import cider_per_image
from actstore_analyze.score.exact import gqa_accuracy, mme_points, pope
from actstore_analyze.score.vqa import normalised, vqa_accuracy, vqa_of_all
from actstore_analyze.study.intervals import bootstrapped, percentiles, resampled, wilson

__all__ = ["TASKS", "Score", "Task"]

PAIRED = ("accuracy", "accuracy_plus")  # of questions, and of images with both answers right


class Score(NamedTuple):
    """A metric with its 95 % interval."""

    metric: str
    score: float
    low: float
    high: float


Truths = Sequence[list[str]]
Scorer = Callable[[pl.DataFrame], list[Score]]


@dataclass(frozen=True)
class Task:
    """How answers are scored, and the columns that may hold the truth, likeliest first; each: what is a mean over
    samples, sample by sample.

    `score` takes said, truth (lists), split, and the columns that it `needs`; llava-bench also what a judge said:
    rating and reference_rating.
    """

    score: Scorer
    columns: tuple[str, ...]
    needs: tuple[str, ...] = ()
    each: Callable[[Sequence[str], Truths], dict[str, NDArray[np.float64]]] | None = None


def _of(score: Callable[[Sequence[str], Truths], list[Score]]) -> Scorer:
    """A scorer that needs nothing but what was said and the truth."""
    return lambda samples: score(samples["said"].to_list(), samples["truth"].to_list())


def _means_of(each: Callable[[Sequence[str], Truths], dict[str, NDArray[np.float64]]]) -> Scorer:
    return _of(lambda said, truths: [_mean(name, values) for name, values in each(said, truths).items()])


def _shares_of(each: Callable[[Sequence[str], Truths], dict[str, NDArray[np.float64]]]) -> Scorer:
    return _of(lambda said, truths: [_share(name, int(v.sum()), len(v)) for name, v in each(said, truths).items()])


def _vqa(said: Sequence[str], truths: Truths) -> dict[str, NDArray[np.float64]]:
    ways = {"vqa_accuracy": vqa_accuracy, "vqa_of_all": vqa_of_all}
    return {name: np.array([way(*pair) for pair in zip(said, truths, strict=True)]) for name, way in ways.items()}


def _cider(said: Sequence[str], truths: Truths) -> dict[str, NDArray[np.float64]]:
    variants, kinds = {"cider": "plain", "cider_d": "d"}, {"": "raw", "_ptb": "ptb"}
    return {
        f"{name}{ending}": cider_per_image(said, truths, variant=variant, tokens=tokens)
        for ending, tokens in kinds.items()
        for name, variant in variants.items()
    }


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
    low, high = bootstrapped(lambda drawn: 2 * hits[drawn].sum(axis=1) / np.maximum(weight[drawn].sum(axis=1), 1), yes)
    return [*scores[:3], Score("f1", found.f1, low, high), *scores[3:]]


def _gqa(said: Sequence[str], truths: Truths) -> dict[str, NDArray[np.float64]]:
    right = [gqa_accuracy([one], [_only(truth)]) for one, truth in zip(said, truths, strict=True)]
    return {"exact_match": np.array(right, np.float64)}


def _pope_each(said: Sequence[str], truths: Truths) -> dict[str, NDArray[np.float64]]:
    right = [pope([one], [_only(truth)]).accuracy for one, truth in zip(said, truths, strict=True)]
    return {"accuracy": np.array(right, np.float64)}


MIRRORED = "question_id"  # of lmms-lab/MME: the folder and name of the picture, which is not named otherwise
PERCEPTION = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def numbered(asked: pl.DataFrame) -> bool:
    """Whether samples come from a mirror of MME that numbers its pictures and names each by question_id, twice."""
    if asked.schema.get("image") != pl.String or MIRRORED not in asked.columns:
        return False
    own = [name for name in ("condition",) if name in asked.columns]
    paired = asked.group_by(*own, MIRRORED).agg(pl.len(), pl.col("image").n_unique())
    return bool(len(paired)) and bool(((paired["len"] == 2) & (paired["image"] == 2)).all())


def _mme(samples: pl.DataFrame) -> list[Score]:
    """Points of a task, [0, 200]; over several also perception and cognition, the sums of those that are there."""
    if samples["image"].dtype == pl.List(pl.String):
        raise ActstoreError("the questions of MME are of one picture each; these samples have several")
    if samples["image"].n_unique() == samples.height > 1:
        raise ActstoreError(
            "every sample has an image of its own, as rows of the hub are numbered: another column is to tell which "
            'two questions are about one: "select * replace (COLUMN as image) from samples"'
        )
    points = {
        task: mme_points(own["said"].to_list(), [_only(one) for one in own["truth"].to_list()], own["image"].to_list())
        for (task,), own in samples.group_by("split", maintain_order=True)
    }
    if len(points) == 1:
        (only,) = points.values()
        return [_points("points", [only]), *(_mean(name, only[:, i] / 100) for i, name in enumerate(PAIRED))]
    kinds = {"perception": PERCEPTION, "cognition": COGNITION}
    found = {name: [points[task] for task in tasks if task in points] for name, tasks in kinds.items()}
    return [_points(name, tasks) for name, tasks in found.items() if tasks]


def _points(metric: str, tasks: Sequence[NDArray[np.float64]]) -> Score:
    """The sum over tasks of the mean points of their images, and its interval: images are drawn within their task."""
    sums = [own.sum(axis=1) for own in tasks]
    drawn = np.sum([_means(own, seed=i) for i, own in enumerate(sums)], axis=0)
    return Score(metric, sum(float(own.mean()) for own in sums), *percentiles(drawn))


def _means(values: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """The mean of each of RESAMPLES draws."""
    return resampled(lambda drawn: values[drawn].mean(axis=1), values, seed=seed)


def _relative(samples: pl.DataFrame) -> list[Score]:
    """Ratings of the answers over those of the references, and both means, of the replies that have ratings."""
    rated = samples.drop_nulls(["reference_rating", "rating"])
    unclear = _share("unclear", samples.height - rated.height, samples.height)
    if not rated.height:
        return [unclear]
    reference, own = (rated[name].to_numpy() for name in ("reference_rating", "rating"))
    interval = bootstrapped(lambda drawn: own[drawn].sum(axis=1) / reference[drawn].sum(axis=1), own)
    relative = Score("relative", float(own.sum() / reference.sum()), *interval)
    return [relative, _mean("rating", own), _mean("reference_rating", reference), unclear]


def _answers(said: Sequence[str], truths: Truths) -> dict[str, NDArray[np.float64]]:
    """Equal to any of the answers, both sides normalised as for VQA."""
    pairs = zip(said, truths, strict=True)
    right = [normalised(one) in {normalised(truth) for truth in others} for one, others in pairs]
    return {"accuracy": np.array(right, np.float64)}


def _only(truth: Sequence[str]) -> str:
    if len(truth) != 1:
        raise ActstoreError(f"a sample has {len(truth)} true answers, this task takes one; try --task answers")
    return truth[0]


def _share(metric: str, right: int, n: int) -> Score:
    return Score(metric, right / n, *wilson(right, n)) if n else Score(metric, 0.0, 0.0, 1.0)


def _mean(metric: str, values: NDArray[np.float64]) -> Score:
    return Score(metric, float(values.mean()), *bootstrapped(lambda drawn: values[drawn].mean(axis=1), values))


TASKS = {
    "vqa": Task(_means_of(_vqa), ("answers",), each=_vqa),
    "cider": Task(_means_of(_cider), ("captions",), each=_cider),
    "pope": Task(_of(_pope), ("label", "answer"), each=_pope_each),
    "gqa": Task(_shares_of(_gqa), ("answer", "label"), each=_gqa),
    "mme": Task(_mme, ("label", "answer"), needs=("image",)),
    "llava-bench": Task(_relative, ("answer",), needs=("question", "context")),
    "answers": Task(_shares_of(_answers), ("label", "answer", "answers"), each=_answers),
}
