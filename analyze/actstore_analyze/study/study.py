"""Measures taken apart: rows of the table for each unit (a role at a layer, say), then all of them together."""

import re
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.header import span
from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.published import models
from actstore_analyze.study import executor, held
from actstore_analyze.study.selection import Say, known_layers

__all__ = [
    "EVERYTHING",
    "METRICS",
    "NO_INTERVAL",
    "RESIDUAL",
    "OnDevice",
    "PerLayer",
    "Prepared",
    "Study",
    "WithInterval",
    "depth",
    "n_layers",
]
EVERYTHING = "from rows"
UNWRITTEN = (
    "sql",
    "jobs",
    "executor",
    "device",
    "with_state",
    "minus_state",
    "vector_state",
    "blocked",
    "interval",
    "prompt_text",
)  # fields that are no options
NO_INTERVAL = "none"
WORKERS = ("jobs", "executor", "device")  # fields that are no part of the question
FIRST = ("roles", "layers")  # options that a command line begins with
RESIDUAL = "the residual stream; layer 0 is the embeddings, layer l the output of the l-th block, before any final norm"
METRICS = {
    "euclidean": "euclidean distance between the vectors as they are",
    "normalised": "euclidean distance between the vectors divided by their norms",
    "cosine": "1 - cosine similarity of the vectors",
}
Vectors = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """What is asked of a store. The fields, but jobs and executor, are the parameters of the saved result.

    jobs: processes that share the work, where it can be; the table does not depend on it. executor: whose do it.
    """

    layers: tuple[int, ...]
    sql: str = EVERYTHING
    jobs: int = field(default=1, compare=False)
    executor: str | None = field(default=None, compare=False)

    measure: ClassVar[str]
    verb: ClassVar[str | None] = None  # the command, where it has another name
    always: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(cls, store: Store, *, layers: Sequence[int] | None = None, **asked: Any) -> Self:
        """The call with its layers checked; without any: all of the store."""
        return cls(layers=known_layers(store, layers), **asked)

    @classmethod
    def again(cls, parameters: dict[str, Any]) -> Self:
        """The call that a saved result answers; raises ActstoreError for parameters that this version does not have."""
        if unknown := sorted(parameters.keys() - {one.name for one in fields(cls)}):
            raise ActstoreError(f"parameters that this version does not know: {', '.join(unknown)}")
        try:
            msgspec.convert(parameters, cls)
        except msgspec.ValidationError as error:
            raise ActstoreError(f"parameters of another version ({error})") from None
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()
        }
        return cls(**values)

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result."""
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in WORKERS}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}

    @property
    @abstractmethod
    def title(self) -> str:
        """What was measured, as a heading."""

    @property
    @abstractmethod
    def caption(self) -> str:
        """What the figure shows, in a sentence or two."""

    @property
    @abstractmethod
    def methods(self) -> str:
        """How it was computed, from the parameters."""

    @property
    def about(self) -> str | None:
        """What tells the call from others of a store, under its figure's title; None where it needs none."""
        return None

    def published(self, model: str) -> pl.DataFrame | None:
        """What the papers published of a model in the same experiment; None where we do not have it.

        Raises ActstoreError for a model that no paper is about.
        """
        models.key(model)
        return self._published(model)

    def _published(self, model: str) -> pl.DataFrame | None:  # noqa: ARG002
        return None

    @property
    def slug(self) -> str:
        """The title as the name of a file."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower().partition(EVERYTHING)[0]).strip("-")

    @property
    def chosen(self) -> str:
        """The rows in words."""
        return "all rows" if self.sql == EVERYTHING else f"rows: {self.sql}"

    def command(self, store: Path | str) -> str:
        """The command line of the call; options with their usual value are not written, but for `always`."""
        words = [
            "actstore",
            self.verb or self.measure,
            str(store),
            *([self.sql] if self.sql != EVERYTHING else []),
        ]
        for one in sorted(fields(self), key=lambda one: (one.name not in FIRST, one.name == "layers")):
            value = getattr(self, one.name)
            if one.name in UNWRITTEN or (value == one.default and one.name not in self.always):
                continue
            flag = f"-{one.name}" if len(one.name) == 1 else f"--{one.name.replace('_', '-')}"
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            words += [] if value in (None, ()) else [flag] if value is True else [flag, text]
        words += ["--no-interval"] if getattr(self, "interval", "") == NO_INTERVAL else []
        return shlex.join(words)

    def __getstate__(self) -> dict[str, Any]:
        """The question, without who does the work: what workers are given, the same whoever asks."""
        return {**self.__dict__, "jobs": 1, "executor": None}

    def computed_on(self, device: str) -> Self:  # noqa: ARG002
        """The call as a result of that device answers it, so that `methods` say it."""
        return self

    def mapped(self, store: Store, function: Callable[[Store, Any], T], units: Sequence[Any]) -> list[T]:
        """function(store, unit) of each unit, by those who do the work."""
        return executor.mapped(store, function, units, jobs=self.jobs, executor=self.executor)

    def streamed(
        self, store: Store, function: Callable[[Store, Any], T], units: Sequence[Any]
    ) -> Generator[T, None, None]:
        """As `mapped`, each in its turn, as soon as it and all before it are done."""
        return executor.streamed(store, function, units, jobs=self.jobs, executor=self.executor)

    @abstractmethod
    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """What was measured; each line that a reader must know of goes to `say`."""

    def beside(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """The tables of several stores, by name, one below the other, with a column store."""
        named = [table.select(pl.lit(store).alias("store"), pl.all()) for store, table in tables.items()]
        return pl.concat(named, how="diagonal_relaxed")

    def remarks(self, table: pl.DataFrame) -> Iterator[str]:
        """What a reader must be told beside the table: lines on standard error, each time it is shown.

        Here: where it has no values, and why, if it has a column `reason`.
        """
        if "reason" not in table.columns:
            return
        where = [name for name in ("role", "condition") if name in table.columns]
        found = table.drop_nulls("reason").group_by(*where, "reason", maintain_order=True)
        for key, rows in found:
            *at, reason = key
            named = "".join(f"{name} '{value}', " for name, value in zip(where, at, strict=True) if value != "none")
            layers = rows["layer"].unique().sort().to_list()
            yield f"{named}layer{'s' * (len(layers) > 1)} {span(layers)}: not defined: {reason}"


@dataclass(frozen=True, kw_only=True)
class WithInterval(Study):
    """A study whose table has 95 % intervals; interval: what they are of, or none.

    Results of versions that do not say it have `older` ones, and do not answer for those that this version has.
    """

    interval: str = "samples"

    older: ClassVar[str] = NO_INTERVAL
    methods_before: ClassVar[Mapping[str, str]] = {}  # sentences on the intervals of earlier versions

    @classmethod
    def again(cls, parameters: dict[str, Any]) -> Self:
        """The call that a saved result answers."""
        return super().again({"interval": cls.older, **parameters})

    @property
    def has_interval(self) -> bool:
        """Whether this version's are asked for, and can be had."""
        return self.interval == self._usual

    def on_interval(self, sentence: str) -> str:
        """A sentence on this version's intervals, and a space; on those of an earlier one, which a result has kept."""
        if self.interval not in (self._usual, NO_INTERVAL) and replace(self, interval=self._usual).has_interval:
            named = f"Intervals, where there are some, are those of an earlier version, called “{self.interval}”."
            return f"{self.methods_before.get(self.interval, named)} "
        return f"{sentence} " if self.has_interval else ""

    @property
    def _usual(self) -> str:
        return str(next(one.default for one in fields(self) if one.name == "interval"))


@dataclass(frozen=True, kw_only=True)
class OnDevice(Study):
    """A study whose products can be computed on a GPU; device: `cpu`, `cuda`, `cuda:N`, or as a result says it.

    It is no part of the question, as the number of workers is none: products are float32's on either and sums
    float64's, so that numbers are the same to some six digits. A saved result answers, and says what computed it.
    """

    device: str = field(default=devices.CPU, compare=False)

    def computed_on(self, device: str) -> Self:
        """See Study."""
        return replace(self, device=device)

    @property
    def computed(self) -> str:
        """A sentence of `methods`: where, if not on a CPU; with a space in front."""
        if self.device == devices.CPU:
            return ""
        return f" Products: on a GPU, {self.device}, in float32 without TF32, summed in float64."


@dataclass(frozen=True, kw_only=True)
class PerLayer(Study):
    """A study of units that are measured apart, such as roles at layers.

    A measure of nearest neighbours (overlap, cluster, dimension) has all vectors of a unit, a role at a layer, in
    memory, or reads them by blocks where they are many. What adds up is `Summed`.
    """

    @abstractmethod
    def units(self, store: Store, *, say: Say) -> list[Any]:
        """What can be measured apart, in the order of the table; small, since units go to other processes."""

    @abstractmethod
    def rows(self, store: Store, unit: Any) -> pl.DataFrame:
        """The rows of one unit."""

    def finish(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The table from the rows of all units; those rows, unless a measure needs all layers to go on."""
        return rows

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """All units, measured and put together, but for those that hold nothing at their layer, which is said."""
        found = self.measured(store, self.units(store, say=say))
        held.say_left_out(store, self.layers, say)
        rows = [one for one in found if isinstance(one, pl.DataFrame)]
        if not rows:
            raise held.NothingHeldError(next(one for one in found if isinstance(one, str)))
        table = self.finish(pl.concat(rows))
        is_whole = "reason" in table.columns and table["reason"].is_null().all()
        return table.drop("reason") if is_whole else table

    def measured(self, store: Store, units: Sequence[Any]) -> list[pl.DataFrame | str]:
        """The rows of each unit, or why it holds nothing, by those who do the work."""
        return self.mapped(store, self._rows, units)

    def _rows(self, store: Store, unit: Any) -> pl.DataFrame | str:
        """The rows of one unit, or why it holds nothing."""
        try:
            return self.rows(store, unit)
        except held.NothingHeldError as error:
            return str(error)


@dataclass(frozen=True, kw_only=True)
class Prepared(PerLayer):
    """A measure of vectors that can be changed before: dimensions left out, the mean subtracted."""

    center: bool = False
    drop_dims: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, store: Store, *, layers: Sequence[int] | None = None, drop_dims: Sequence[int] | None = None, **asked: Any
    ) -> Self:
        """The call with its layers and dimensions checked."""
        dropped = tuple(sorted(set(drop_dims or ())))
        width = store.header.d_model
        if dropped and dropped[-1] >= width:
            raise ActstoreError(f"no dimension {dropped[-1]}: the vectors of {store} have 0..{width - 1}")
        if len(dropped) == width:
            raise ActstoreError(f"all {width} dimensions would be dropped; keep at least one")
        return cls(layers=known_layers(store, layers), drop_dims=dropped, **asked)

    def prepared(self, x: Vectors, mean: NDArray[np.float64] | None = None) -> Vectors:
        """The vectors (n, d) as they are measured: those measured together have one mean.

        mean: (d,) of all of them, where x is a part.
        """
        if self.center:
            x = (x - (x.mean(axis=0, dtype=np.float64) if mean is None else mean)).astype(np.float32)
        return np.delete(x, self.drop_dims, axis=1) if self.drop_dims else x

    @property
    def source(self) -> str:
        """A sentence or two: which vectors, and how they were changed."""
        return f"Vectors: {RESIDUAL}." + (f" They were measured {self.preparation}." if self.preparation else "")

    @property
    def preparation(self) -> str | None:
        """In words, None for vectors as they are."""
        dropped = f"without dimensions {', '.join(map(str, self.drop_dims))}" if self.drop_dims else None
        return ", ".join(filter(None, [dropped, "centred" if self.center else None])) or None


def depth(store: Store, layer: int) -> float:
    """A layer as a share of the model's blocks, stored or not."""
    return layer / n_layers(store)


def n_layers(store: Store) -> int:
    """L, the number of blocks: the last residual point of the model, stored or not."""
    found = store.run.get("n_layers") or max(store.layers) or 1
    if not isinstance(found, int) or found < 1:
        raise ActstoreError(f"{store}: its run card says n_layers = {found!r}, which is no number of blocks")
    return found
