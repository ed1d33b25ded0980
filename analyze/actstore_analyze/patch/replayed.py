"""Calls of `actstore patch` that replay: what a model says once vectors of its store are put into its samples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.progress import bar, duration
from actstore.storage import local
from actstore.store import Store
from actstore_analyze.patch import measure as patching
from actstore_analyze.patch.study import (
    NONE_PAIRED,
    PAIRED,
    SCHEMA,
    changed,
    interval,
    mean_and_deviation,
    say_of_one_class,
)
from actstore_analyze.published import curves
from actstore_analyze.study import answers
from actstore_analyze.study.intervals import wilson
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, WithInterval, depth, n_layers
from actstore_analyze.study.words import tokens_of

__all__ = ["Replayed", "compared"]
Floats = NDArray[np.float64]
Point = Literal["residual", "attention-input"]
WAYS = {"packed": "all layers of a sample in one pass", "suffix": "layer by layer from the patched position on"}
WAYS["full"] = "layer by layer over all positions"


class Scored(NamedTuple):
    """A donor in a receiver: similarity (layers,) with the donor's own output, and before; logits (layers, 2) of the
    words of the donor's and the receiver's class, and (2,) before."""

    similarity: Floats | None
    before: float | None
    words: Floats | None
    words_before: Floats | None


@dataclass(frozen=True, kw_only=True)
class Replayed(WithInterval):
    """Vectors of a store, or of a file, put into its samples, and the model gone on with from there on a CPU.

    pairs: SOURCE:RECEIVER classes. word: CLASS=WORD, the word that stands for a class.
    """

    role: str = "eoi"
    point: Point = "residual"
    pairs: tuple[str, ...] = ()
    by: str = "label"
    source: str | None = None
    minus: str | None = None
    mean: bool = False
    vector: str | None = None
    vector_state: str | None = None
    to: str | None = None
    add: float | None = None
    limit: int | None = None
    word: tuple[str, ...] = ()
    method: str | None = None
    model: str | None = None
    dtype: str | None = None
    tolerance: float | None = None
    forced: bool = False
    low_memory: bool = field(default=False, compare=False)
    interval: str = "paired"

    measure: ClassVar[str] = "replayed"
    verb: ClassVar[str] = "patch"
    always: ClassVar[tuple[str, ...]] = ("role",)

    @classmethod
    def of(cls, store: Store, *, layers: Sequence[int] | None = None, **asked: Any) -> Self:
        """The call with its layers checked; ActstoreError for what contradicts itself."""
        if asked.get("point") == "attention-input" and layers is None:
            layers = [layer for layer in store.layers if layer < n_layers(store)]
        if asked.get("vector") is not None:
            asked["vector_state"] = _state(Path(asked["vector"]))
        return super().of(store, layers=layers, **asked)._sensible(store)

    def _sensible(self, store: Store) -> Self:
        if sum(bool(given) for given in (self.pairs, self.source, self.vector)) != 1:
            raise ActstoreError("what is to be put in? One of --pairs, --source and --vector says it")
        if self.to and not (self.vector or self.minus):
            raise ActstoreError(
                "--to is the class that --vector, or the mean less --minus, leads to; samples have theirs"
            )
        if self.minus and not self.source:
            raise ActstoreError("--minus is taken from the mean of --source: give both")
        if self.point == "attention-input":
            if self.mean or self.minus or self.vector or self.add is not None:
                raise ActstoreError("what attention reads is that of samples: take --pairs or --source, without means")
            if max(self.layers) >= n_layers(store):
                raise ActstoreError(f"no attention reads layer {max(self.layers)}, the output: leave it out")
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result, which does not depend on how much memory there was."""
        return {name: value for name, value in super().parameters.items() if name != "low_memory"}

    def command(self, store: Path | str) -> str:
        """The command line of the call."""
        return super().command(store).replace("--forced", "--force")

    @property
    def factor(self) -> float | None:
        """How many times the vectors are added; None: they take the place of the receiver's."""
        return 1.0 if self.minus and self.add is None else self.add

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        return ", ".join([f"Replayed patches of {self.role}: {self.what}", *self._which])

    @property
    def about(self) -> str:
        """What tells the call from others of the store, under its figure's title."""
        return ", ".join([self.what, *self._which, f"layers {_ranges(self.layers)}"])

    @property
    def _which(self) -> list[str]:
        """What goes into what, shortened."""
        return [
            *([_few(self.pairs)] if self.pairs else []),
            *([f"sources: {_short(self.source)}"] if self.source else []),
            *([f"less: {_short(self.minus)}"] if self.minus else []),
            *([f"towards {self.to}"] if self.to else []),
            *([f"receivers: {_short(self.sql)}"] if self.sql != EVERYTHING else []),
            *([f"at most {self.limit:,} of each pair" if self.pairs else f"at most {self.limit:,} samples"]
              if self.limit else []),
            *([self.method] if self.method else []),
        ]  # fmt: skip

    @property
    def what(self) -> str:
        """What is put in, in words."""
        found = "means of classes" if self.mean else "vectors of other samples"
        if self.point == "attention-input":
            found = "what attention reads in other samples, from a block on"
        if self.minus or self.vector:
            found = "a difference of means" if self.minus else f"the mean vector of {self.vector}"
        return found if self.factor is None else f"{found}, added {self.factor:g} times"

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"Put in at {self.role}: {', '.join([self.what, *self._which])}; replayed from the store. "
            "Above: how much of its next-token distribution the model then shares with the source's own; band: one "
            "standard deviation over samples; dotted: without the patch. "
            "Below: how often it prefers the word of the source's class to that of the "
            f"receiver's ({self.chosen})."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        way = f" ({WAYS[self.method]})" if self.method else ""
        return (
            "Activation patching (Serra et al., The Narrow Gate), replayed on a CPU from stored residual streams and "
            f"the decoder's weights{way}; at {self.role}: {self.what}. "
            "Similarity: the sum over tokens of min(q, p), q of the patched replay, p of the source's own; mean over "
            "pairs, standard deviation with n - 1. Without the patch: the un-patched replay, which is checked against "
            "what the model said at extraction. Accuracy: the share of patched replays with P(source's word) > "
            "P(receiver's word), with its 95 % Wilson interval; sign flips: the share whose preference changes sign by "
            f"the patch, in either direction. {self.on_interval(PAIRED)}Rows: {self.sql}."
        )

    def _published(self, model: str) -> pl.DataFrame | None:
        return curves.patching(model)

    def estimate(self, store: Store, *, say: Say) -> pl.DataFrame:
        """What is stored, what is missing, and what it would cost: what, answer."""
        pairing = self._paired(store, say)
        from actstore_extract.replay import Patched, estimate, method, recorded_decoder, report

        said = report(pairing, self.role, self.layers)
        try:
            way = method(pairing, self.role, self.layers, self.method)
            decoder = recorded_decoder(store.run, say=say, **self.checkpoint)
        except ActstoreError as error:
            return _answers({**said, "to be replayed": f"no: {error}"})
        cost = estimate(
            Patched(
                pairing, decoder, role=self.role, layers=self.layers, point=self.point, factor=self.factor,
                way=way, tolerance=self.tolerance,
            )
        )  # fmt: skip
        return _answers(
            {
                **said,
                "to be replayed": f"{cost.replays:,} patches in {cost.receivers:,} samples, and {cost.unpatched:,} as "
                f"they were; {way}",
                "time": f"about {duration(cost.seconds)}, measured on one receiver",
                "weights in memory": _megabytes(cost.weights) + ", one block at a time" * self.low_memory,
                "memory beside them": f"about {_megabytes(cost.working)}, and what Python takes",
            }
        )

    @property
    def checkpoint(self) -> dict[str, Any]:
        """Which weights replay, and how."""
        return {"path": self.model, "dtype": self.dtype, "low_memory": self.low_memory, "force": self.forced}

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """As `patched` makes it of patches that ran online."""
        pairing = self._paired(store, say)
        from actstore_extract.replay import Patched, method, recorded_decoder

        way = method(pairing, self.role, self.layers, self.method)
        decoder = recorded_decoder(store.run, say=say, **self.checkpoint)
        remedy = "; --to CLASS says which the vector leads to" if (self.vector or self.minus) and not self.to else ""
        own = None if self.word or self.to else answers.own(store)
        words = None if own else tokens_of(
            store, decoder.tokens, decoder.unknown, pairing.classes, self._words, say=say, remedy=remedy
        )  # fmt: skip
        replays = Patched(
            pairing, decoder, role=self.role, layers=self.layers, point=self.point, factor=self.factor,
            way=way, tolerance=self.tolerance,
        )  # fmt: skip
        found = []
        with bar(replays.steps, f"steps, {way}") as progress:
            for one in replays.outcomes(progress.advance):
                is_told = words and one.classes[0] != one.classes[1]
                pair = [words[str(name)] for name in one.classes] if words and is_told else None
                if own and one.donor.sample_id is not None:
                    both = [own[one.donor.sample_id], own[one.receiver]]
                    pair = both if both[0] != both[1] else None
                found.append(_scored(one.patched, one.before, one.own, pair))
        say(compared(replays.check.deviations, replays.check.tolerance))
        say_of_one_class(len(found), sum(one.words is None for one in found) if words or own else 0, say)
        rows = [self._row(store, i, layer, found) for i, layer in enumerate(self.layers)]
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")

    def _paired(self, store: Store, say: Say) -> Any:  # a Pairing, of a package that loads late
        """What goes into what; ActstoreError for classes that the store does not have."""
        from actstore_extract.replay import Asked, Reader, known_class, paired

        for name in self._words:
            known_class(store, name, self.by)
        pairing = paired(Reader(store), Asked.of(vars(self)), self.layers)
        if self.vector:
            say(f"put in: {next(iter(pairing.donors.values()))[0].name}")
        return pairing

    @property
    def _words(self) -> dict[str, str]:
        """Class -> word, as given; ActstoreError for what is no CLASS=WORD."""
        for one in self.word:
            if not all(one.partition("=")):
                raise ActstoreError(f"--word {one}: write CLASS=WORD, such as three=drei")
        return dict(one.split("=", 1) for one in self.word)

    def _row(self, store: Store, i: int, layer: int, found: Sequence[Scored]) -> tuple[object, ...]:
        alike = np.array([one.similarity[i] for one in found if one.similarity is not None])
        before = np.array([one.before for one in found if one.before is not None])
        pairs = [(one.words[i], one.words_before) for one in found if one.words is not None]
        place = ("replayed", self.role, self.point, layer, depth(store, layer))
        change = changed(alike, before) if len(alike) and len(alike) == len(before) else NONE_PAIRED
        shares = (*mean_and_deviation(alike), *interval(alike), *mean_and_deviation(before), *change)
        return (*place, *shares, *_preferred(pairs), len(found))


def _few(names: Sequence[str], most: int = 3) -> str:
    """
    >>> _few(["a:b", "c:d", "e:f", "g:h"])
    'a:b, c:d, e:f and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(query: str, most: int = 60) -> str:
    text = " ".join(query.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _ranges(layers: Sequence[int]) -> str:
    """
    >>> _ranges([0, 1, 2, 5])
    '0..2, 5'
    """
    first = [layer for layer in layers if layer - 1 not in layers]
    last = [layer for layer in layers if layer + 1 not in layers]
    return ", ".join(str(one) if one == end else f"{one}..{end}" for one, end in zip(first, last, strict=True))


def _answers(said: dict[str, str]) -> pl.DataFrame:
    return pl.DataFrame({"what": list(said), "answer": list(said.values())})


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _state(path: Path) -> str:
    try:
        return local.crc32c_of(local.content(path))
    except OSError as error:
        raise ActstoreError(f"{path}: {error.strerror or error}") from None


def _scored(
    patched: NDArray[np.float32],
    before: NDArray[np.float32],
    own: NDArray[np.float32] | None,
    pair: Sequence[int] | None,
) -> Scored:
    """From logits (layers, vocabulary) with the patch, (vocabulary,) before, and (vocabulary,) of the donor itself."""
    words = (None, None) if pair is None else (patched[:, pair].astype(np.float64), before[pair].astype(np.float64))
    if own is None:
        return Scored(None, None, *words)
    source = patching.probabilities(own[None])
    shares = patching.probabilities(np.concatenate([before[None], patched]))
    alike = patching.similarity(shares, np.broadcast_to(source, shares.shape))
    return Scored(alike[1:], float(alike[0]), *words)


def _preferred(pairs: Sequence[tuple[Floats, Floats | None]]) -> tuple[float | None, ...]:
    """Accuracy with its interval, that before, the difference, and sign flips; from logits (2,) after and before."""
    if not pairs:
        return (None,) * 8
    after, before = (np.stack(side) for side in zip(*pairs, strict=True))
    n, source, receiver = len(after), np.zeros(len(after), int), np.ones(len(after), int)
    share = patching.accuracy(after, source, receiver)
    flips = patching.sign_flip_accuracy(after, before, source, receiver)
    change = changed(after[:, 0] > after[:, 1], before[:, 0] > before[:, 1])
    ends = wilson(round(share * n), n)
    return share, *ends, patching.accuracy(before, source, receiver), *change, flips


def compared(deviations: Sequence[tuple[float | None, float | None]], tolerance: float) -> str:
    """How far un-patched replays are from what was stored, in words."""
    if not deviations:
        return "un-patched replays could not be compared with extraction: the store keeps nothing of their outputs"
    said, output = ([one for one in side if one is not None] for side in zip(*deviations, strict=True))
    what = {"probabilities of the likeliest tokens": said, "vectors at the output": output}
    told = [
        f"{name} differ by {max(values):.2g} at most, {np.mean(values):.2g} on average" if values
        else f"{name} are not stored"
        for name, values in what.items()
    ]  # fmt: skip
    return (
        f"{len(deviations)} un-patched replays come to what they came to at extraction: {'; '.join(told)} (relative; "
        f"{tolerance:g} is allowed)"
    )
