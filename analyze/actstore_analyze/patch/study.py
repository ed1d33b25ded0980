"""Patches that a store's samples ran under: how far the model then says what the source says, by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.header import span
from actstore.store import Store
from actstore_analyze.patch import measure as patching
from actstore_analyze.published import curves
from actstore_analyze.study import answers
from actstore_analyze.study.conditions import NONE, samples_under, specs
from actstore_analyze.study.intervals import by_sample, of_mean, paired, wilson
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, WithInterval, depth, n_layers

__all__ = [
    "NONE_PAIRED",
    "PAIRED",
    "Patched",
    "changed",
    "has_patches",
    "interval",
    "mean_and_deviation",
    "patched",
    "say_of_one_class",
]
KEYS = ("role", "point", "layers", "pairs")  # of a patch
PAIRED = (
    "Interval of the similarity: 95 %, the bootstrap's over samples. Differences are from what there is without the "
    "patch, over the same samples, with their 95 % interval: the bootstrap's, of preferences Bonett and Price's (2012)."
)
NONE_PAIRED: tuple[float | None, ...] = (None, None, None)
SIDES = ("source", "receiver")
SCHEMA = {
    **dict.fromkeys(("patch", "role", "point"), pl.String),
    "layer": pl.Int32,
    **dict.fromkeys(("depth", "similarity", "similarity_sd", "similarity_low", "similarity_high"), pl.Float64),
    **dict.fromkeys(("baseline", "baseline_sd", "difference", "difference_low", "difference_high"), pl.Float64),
    **dict.fromkeys(("accuracy", "low", "high", "accuracy_before"), pl.Float64),
    **dict.fromkeys(("accuracy_difference", "accuracy_difference_low", "accuracy_difference_high"), pl.Float64),
    "sign_flips": pl.Float64,
    "n": pl.Int64,
}


class Runs(NamedTuple):
    """The patched runs of one layer: similarity (n,), and probabilities (n, 2) of the words of source and receiver."""

    condition: str
    role: str
    point: str
    pairs: str
    layer: int
    similarity: NDArray[np.float64]
    samples: list[str]
    patched: NDArray[np.float64] | None
    before: NDArray[np.float64] | None

    @property
    def patch(self) -> str:
        """The patch without its layer."""
        return self.condition.removesuffix(f"-l{self.layer}")


@dataclass(frozen=True, kw_only=True)
class Patched(WithInterval):
    """The patches of a store, as a report shows them; their layers are those patched, whichever are stored."""

    interval: str = "paired"

    measure: ClassVar[str] = "patched"
    verb: ClassVar[str] = "patch"

    @classmethod
    def of(cls, store: Store, *, layers: Sequence[int] | None = None, **asked: Any) -> Self:
        """The call with its layers checked; without any: all that a condition patches."""
        at = sorted({_layer(spec) for spec in _patches(store).values()})
        chosen = tuple(at if layers is None else sorted({*layers}))
        if missing := [layer for layer in chosen if layer not in at]:
            raise ActstoreError(f"{store} has no patch at layer {span(missing)}, only at {span(at)}")
        return cls(layers=chosen, **asked)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        return ", ".join(["Activation patching", *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            "Vectors of another sample, the source, in the place of the receiver's: in the residual stream at one "
            "layer, or in what attention reads from a block on. Above: how much of its next-token distribution the "
            "model then shares with the source's own; band: one standard deviation over samples. Below: how often it "
            "prefers the source's word, its own answer or its class's, to the receiver's. Dotted: unpatched "
            f"({self.chosen})."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            "Activation patching (Serra et al., The Narrow Gate), run with the model at extraction. Similarity: the "
            "sum over tokens of min(q, p), q of the patched run, p of the source's own; mean over samples, standard "
            "deviation with n - 1. Without the patch: the residual patch at the last layer, which nothing reads. "
            "Accuracy: the share of patched runs with P(source's word) > P(receiver's word), with its 95 % Wilson "
            "interval; sign flips, as the authors' code counts: the share of runs whose preference changes sign by the "
            f"patch, in either direction. {self.on_interval(PAIRED)}Rows: {self.sql}."
        )

    def _published(self, model: str) -> pl.DataFrame | None:
        return curves.patching(model)

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """The table of `patched`."""
        return patched(store, self.sql, say=say).filter(pl.col("layer").is_in(self.layers))


def has_patches(store: Store) -> bool:
    """Whether any condition of the store patches."""
    return bool(specs(store, *KEYS))


def patched(store: Store, sql: str = EVERYTHING, *, say: Say = lambda _: None) -> pl.DataFrame:
    """What the samples of a query say under each patch of the store: SCHEMA, by patch and layer.

    similarity: with the source's own distribution, mean and standard deviation over samples, with its 95 % interval;
    baseline: the same without the patch, NULL where no patch of the last layer tells; difference: between the two over
    the same samples, as accuracy_difference is between accuracy and accuracy_before. accuracy: share of runs that
    prefer the source's word to the receiver's, of those where they are two, with its interval, before the patch and
    after; NULL without answers, and where words cannot be told apart, which is said.
    Raises ActstoreError for a store without patches.
    """
    found = _runs(store, sql, say)
    unread = [one for one in found if one.point == "residual" and one.layer == n_layers(store) and one.role != "last"]
    baseline = {(one.role, one.pairs): one for one in unread}
    rows = [_row(store, one, baseline.get((one.role, one.pairs))) for one in found]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _row(store: Store, runs: Runs, baseline: Runs | None) -> tuple[object, ...]:
    share = low = high = before = flips = None
    change = NONE_PAIRED
    if runs.patched is not None:
        n = len(runs.patched)
        source, receiver = np.zeros(n, int), np.ones(n, int)
        share = patching.accuracy(runs.patched, source, receiver)
        low, high = wilson(round(share * n), n)
        if runs.before is not None:
            before = patching.accuracy(runs.before, source, receiver)
            flips = patching.sign_flip_accuracy(runs.patched, runs.before, source, receiver)
            change = changed(runs.patched[:, 0] > runs.patched[:, 1], runs.before[:, 0] > runs.before[:, 1])
    place = (runs.patch, runs.role, runs.point, runs.layer, depth(store, runs.layer))
    alike = (*mean_and_deviation(runs.similarity), *interval(runs.similarity))
    unpatched = (None, None, *NONE_PAIRED)
    if baseline is not None:
        known = dict(zip(baseline.samples, baseline.similarity, strict=True))
        both = [(own, known[name]) for name, own in zip(runs.samples, runs.similarity, strict=True) if name in known]
        unpatched = (*mean_and_deviation(baseline.similarity), *(changed(*np.transpose(both)) if both else NONE_PAIRED))
    return (*place, *alike, *unpatched, share, low, high, before, *change, flips, len(runs.similarity))


def interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean of samples' values [0, 1]; None of fewer than 2."""
    return by_sample(values) if len(values) > 1 else (None, None)


def changed(after: NDArray[np.generic], before: NDArray[np.generic]) -> tuple[float | None, ...]:
    """The mean of samples' differences, of numbers or of yes and no, and its 95 % interval."""
    changes = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return float(changes.mean()), *(paired if after.dtype == np.bool else of_mean)(changes)


def mean_and_deviation(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Of values (n,), with n - 1; None where there are none, or not two."""
    if not len(values):
        return None, None
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def _patches(store: Store) -> dict[str, list[dict[str, Any]]]:
    """Name -> what the condition patches, in the order of the run card; ActstoreError for a store without any."""
    patches = specs(store, *KEYS)
    if not patches:
        raise ActstoreError(
            f"{store} has no patch among its conditions; extract one that has, such as: "
            "actstore extract digits-fusion-patch STORE"
            + ("; or replay patches from what it keeps, with --pairs SOURCE:RECEIVER" if _replayable(store) else "")
        )
    return patches


def _layer(spec: Sequence[dict[str, Any]]) -> int:
    """The layer of a patch, or the first of those that it holds from."""
    return int(spec[0]["layers"][0])


def _runs(store: Store, sql: str, say: Say) -> list[Runs]:
    """The patched runs by condition, in the order of the run card."""
    patches = _patches(store)
    by = {name: str(spec[0].get("by") or "label") for name, spec in patches.items()}
    own = answers.own(store)
    sides = {*by.values()} if own is None else {"source_sample_id", "sample_id"}
    columns = ", ".join(f'p."{column}"' for column in sorted({*sides, "sample_id"}))
    runs = store.sql(
        f"select p.condition, p.source_label, {columns}, p.source_similarity as similarity, "
        "p.answer_probabilities as patched, c.answer_probabilities as before "
        f"from ({samples_under([*patches], sql)}) p "
        f"left join samples c on c.sample_id = p.sample_id and c.condition = '{NONE}' and c.status = 'ok' "
        "where p.source_similarity is not null order by p.condition, p.sample_id"
    )
    words = _words(store, patches, runs, say) if own is None else answers.places(store)
    found, alike = [], (0, 0)
    for name, (spec, *_) in patches.items():
        ran = runs.filter(pl.col("condition") == name)
        if not ran.height:
            continue
        sides_of = ("source_label", by[name]) if own is None else ("source_sample_id", "sample_id")
        pair = ran.select(pl.col(one).cast(pl.String).alias(side) for one, side in zip(sides_of, SIDES, strict=True))
        if own is not None:
            pair = pair.select(pl.col(SIDES).replace_strict(_truths(store)))
        told = _apart(pair, own and answers.tokens(store))
        alike = max(alike, (ran.height - int(told.sum()), ran.height))
        probabilities = [
            _of_words(ran[which].filter(told), pair.filter(told), words) for which in ("patched", "before")
        ]
        similarity = ran["similarity"].cast(pl.Float64).to_numpy()
        role, point, pairs = str(spec["role"]), str(spec["point"]), f"{by[name]}: {spec['pairs']}"
        samples = ran["sample_id"].to_list()
        found.append(Runs(name, role, point, pairs, _layer(patches[name]), similarity, samples, *probabilities))
    if not found:
        raise ActstoreError("the query selects no sample that was patched")
    say_of_one_class(alike[1], alike[0] if words else 0, say)
    return found


def _truths(store: Store) -> dict[str, str]:
    """Each sample's own answer."""
    return dict(store.plan.select("sample_id", answers.TRUTH).unique().iter_rows())


def _apart(pair: pl.DataFrame, tokens: dict[str, int] | None) -> pl.Series:
    """Which runs have two words that can be told apart: other classes, or words that begin with other tokens."""
    if tokens is not None:
        pair = pair.select(pl.col(SIDES).replace_strict(tokens))
    source, receiver = (pair[side] for side in SIDES)
    return source.ne_missing(receiver)


def say_of_one_class(n: int, alike: int, say: Say) -> None:
    """Say how many of n pairs have one class on both sides, whose word cannot be preferred to itself."""
    if alike:
        say(f"left out of the accuracy: {alike:,} of {n:,} pairs, whose source and receiver are of one class or word")


def _replayable(store: Store) -> bool:
    """Whether it was extracted with what replays need."""
    return bool({"all", "suffix"} & {*store.roles}) and "weights_sha256" in store.run


def _words(store: Store, patches: dict[str, Any], runs: pl.DataFrame, say: Say) -> dict[str, int] | None:
    """The place of each class's word in answer_probabilities; None where they do not tell the classes apart."""
    at = answers.places(store)
    if not at or runs["patched"].null_count() == runs.height:
        say("no accuracy: the recipe kept no probabilities of answers ([capture] answers)")
        return None
    pairs = {tuple(map(str, pair)) for spec in patches.values() for pair in spec[0]["pairs"]}
    missing = sorted({name for pair in pairs for name in pair} - at.keys())
    if missing:
        say(f"no accuracy: no answer stands for {', '.join(missing)} ([capture] answers)")
        return None
    p = np.array(runs["patched"].drop_nulls().to_list(), np.float64)
    apart = [pair for pair in sorted(pairs) if pair[0] != pair[1]]
    same = [pair for pair in apart if (p[:, at[pair[0]]] == p[:, at[pair[1]]]).all()]
    if same:
        named = "; ".join(" and ".join(pair) for pair in same)
        say(f"no accuracy: classes whose words begin with the same token cannot be told apart: {named}")
        return None
    return at


def _of_words(column: pl.Series, pair: pl.DataFrame, words: dict[str, int] | None) -> NDArray[np.float64] | None:
    """Probabilities (n, 2) of the words of source and receiver."""
    if words is None or not len(column) or column.null_count():
        return None
    values = np.array(column.to_list(), np.float64)
    columns = np.array([[words[name] for name in names] for names in pair.iter_rows()])
    return np.take_along_axis(values, columns, axis=1)
