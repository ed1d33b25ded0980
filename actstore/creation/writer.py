"""Writers: vectors as hooks give them, forward after forward, kept until a batch of the plan is whole."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.creation.empty import create
from actstore.creation.forward import ONCE, SAID, Forward, Whole, joined, kind_of, mask_of, rows_of
from actstore.creation.roles import Roles
from actstore.creation.vectors import dtype_of, numbers
from actstore.errors import ActstoreError, AlreadyCommittedError, PlanError, nearest
from actstore.format.given import each, named, path_of, short
from actstore.format.given import numbers as whole_numbers
from actstore.format.given import whole as whole_number
from actstore.format.header import check_capture, span
from actstore.format.names import HEADER, PART_SAMPLES, SHARD_BYTES
from actstore.format.plan import prepare
from actstore.format.schema import KEY, ROWS, SAMPLES, conform
from actstore.limits import check_memory
from actstore.sql.own import frame
from actstore.store import Store

__all__ = ["Writer"]

SHOWN = 3  # samples that an error names


class Writer:
    """A store from hooks of your own: `add` vectors as they come, say `done` after each forward.

    A batch of the plan is committed when all its samples are done; those of a batch stay in memory until then, so give
    samples in the order of the plan. The same program run again goes on: `left` are the samples that are not in the
    store, and what is added of others is passed over. Several processes may write at once.

    >>> with Writer("mine", samples, layers=range(13)) as writer:               # doctest: +SKIP
    ...     for batch in loader:
    ...         hidden = hooked(model, batch)  # layer -> (n, tokens, d)
    ...         for layer, x in hidden.items():
    ...             writer.add("last", layer, x[:, -1], batch.sample_ids)
    ...         writer.done()
    """

    def __init__(
        self,
        path: Path | str,
        samples: Any,
        *,
        layers: Sequence[int],
        dtype: str | None = None,
        run: Mapping[str, Any] | None = None,
        vocabulary: Mapping[int, str] | None = None,
        part_samples: int | None = None,
    ) -> None:
        """Begin the store at `path`, which appears when the first forward is done, or go on with it.

        samples: what will come: their ids, or a table (polars, pandas, Arrow) with sample_id and columns of your own,
        such as label; a row for each condition where there are several. layers: residual points, ascending: 0 =
        embeddings, l = output of block l - 1. dtype: the number type that is stored; without it that of the first
        vectors, and another is refused. run: who produced it: model, revision, seed, ...; what JSON can say.
        part_samples: how many samples are committed together; else about 128 MB, at most 2,048.

        Raises PlanError if the store there is of other samples, layers or another run.
        """
        self._shown = path_of(path, "a store")  # a process may go to another folder
        self.path, self.layers, self.roles = self._shown.absolute(), tuple(whole_numbers(layers, "layers")), Roles()
        self._run, self._vocabulary = named(run, "run"), named(vocabulary, "vocabulary")
        self._part_samples = None if part_samples is None else whole_number(part_samples, "part_samples", least=1)
        check_capture(self.layers, 1, dtype or "float32", self._run)
        self._run = json.loads(json.dumps(self._run))  # as the store will have it
        table = frame(samples, "samples") if hasattr(samples, "columns") else _ids(samples)
        self._plan, self._is_cut = prepare(table), "batch" in table.columns
        self._keys = self._plan.select(KEY).rows()
        self._units = {key: unit for unit, key in enumerate(self._keys)}
        self._dtype, self._rounds, self._d_model = dtype, dtype is not None, 0
        self._columns: dict[str, str] = {}  # of one's own, that rows have, and their types
        self._forward = Forward(self.layers)
        self._said: dict[int, dict[str, Any]] = {}  # by unit: what the table of samples says of it
        self._done: set[int] = set()  # units that are not committed yet
        self._held: list[Whole] = []  # of these
        self._store: Store | None = None
        self._batch_of: NDArray[np.int32] = np.empty(0, np.int32)
        self._sizes: dict[int, int] = {}  # samples of each batch
        self._committed: set[int] = set()  # batches
        if (self.path / HEADER).exists():
            self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()

    @property
    def left(self) -> list[str]:
        """The ids of samples that are neither in the store nor done here, in the order of the plan."""
        over = self._done | {unit for unit in self._units.values() if self._is_committed(unit)}
        return list(dict.fromkeys(sample for (sample, _), unit in self._units.items() if unit not in over))

    def add(
        self,
        role: str,
        layer: int,
        vectors: Any,
        samples: str | Sequence[str],
        *,
        positions: Any = None,
        mask: Any = None,
        token_ids: Any = None,
        modality: Any = None,
        columns: Mapping[str, Any] = MappingProxyType({}),
        condition: str = "none",
    ) -> None:
        """Keep vectors (n, d), or (n, k, d) of k positions each, at one layer: the first are of samples[0].

        positions: of their tokens, from 0: (n,) or (n, k), or (k,) where all samples have the same; where they are not
        said the store knows which comes first and no more. mask: (n, k), true where a position counts: padding is left
        out. token_ids, and modality (text, image, special), are as positions; so are columns of your own: texts,
        numbers, truth values, which rows of other roles may lack. The rows are the same at every layer.
        What is added is copied; a model may go on writing into its tensors. Another tool's name of a role, such as
        hook_resid_post, becomes hook-resid-post, which is said.

        Raises ActstoreError for what does not fit, PlanError for a sample that is not in the plan.
        """
        role = self.roles[role]
        layer = whole_number(layer, f"role '{role}': a layer")
        what, shape = f"role '{role}', layer {layer}", tuple(getattr(vectors, "shape", ()))
        if layer not in self.layers:
            raise ActstoreError(f"{what}: not one of this store's layers, {span(self.layers)}")
        if len(shape) not in (2, 3) or 0 in shape:
            raise ActstoreError(f"{what}: vectors (samples, d) or (samples, positions, d) are wanted, not {shape}")
        samples = [samples] if isinstance(samples, str) else each(samples) or []
        if len(samples) != shape[0]:
            raise ActstoreError(f"{what}: samples {_few(samples)} of vectors {shape}: the first axis is the samples")
        units = np.array([self._unit(str(name), condition) for name in samples], np.int32)
        if positions is None and len(set(units.tolist())) < len(units):
            raise ActstoreError(f"{what}: a sample is among {_few(samples)} twice; {ONCE}")
        values = self._numbers(vectors, what).reshape(-1, shape[-1])
        said = {"position": positions, "token_id": token_ids, "modality": modality}
        rows = rows_of(units, shape[:-1], what, named(columns, f"{what}: columns"), **said)
        self._check_columns(rows, what)
        new = np.repeat([not self._is_committed(unit) for unit in units.tolist()], len(values) // len(units))
        if early := self._done.intersection(units.tolist()):
            raise ActstoreError(f"{what}: sample {self._name(min(early))} is done; add all of it, then say `done`")
        kept = mask_of(mask, shape[:-1], what) & new
        self._forward.add(role, layer, rows.filter(pl.Series(kept)), values[kept])  # a copy
        check_memory(
            2 * (self._forward.bytes + sum(one.values.nbytes for one in self._held)),
            f"{self._shown}: what is held of samples that are not committed",
            "say `done` after each forward, and give samples in the order of the plan",
        )

    def fail(self, sample: str, error: str, condition: str = "none") -> None:
        """Say that a sample cannot be run: it is a row of `samples` with its reason, and has no vectors."""
        unit = self._unit(sample, condition)
        if unit in self._forward.units or unit in self._done:
            raise ActstoreError(f"sample {self._name(unit)}: vectors of it were added; it did not fail")
        if not self._is_committed(unit):
            self._said[unit] = {"status": "failed", "error": str(error or "no reason was given")}
            self._finish([], {unit})

    def done(self, samples: Any = None) -> None:
        """Say that all was added of the samples added since: batches of the plan that are whole are committed.

        samples: what the store says of them besides: a table with sample_id and columns of the view samples, such as
        length, next_token or generated_text; one that is in it is done, whether it has vectors or not.

        Raises ActstoreError, naming sample and layer, unless each has the same rows at every layer, and where a number
        is not finite; nothing of the batch is committed then.
        """
        forward, self._forward = self._forward, Forward(self.layers)
        units, wholes = forward.units, forward.whole(self._name)
        for one in [] if samples is None else conform(frame(samples, "samples"), SAMPLES, "samples").to_dicts():
            unit = self._unit(one.pop("sample_id"), one.pop("condition") or "none")
            if not self._is_committed(unit):
                self._said[unit] = one
                units.add(unit)
        self._finish(wholes, units)

    def close(self) -> None:
        """Be done, and commit; raises ActstoreError, naming them, if samples are missing that others wait for.

        A `with` block ends so, unless by an error: then what was committed stays, and what was not is added again.
        """
        self.done()
        if self._done and self._store is None:
            raise ActstoreError(f"{self._shown}: no store was made: no vectors were added")
        if self._done:
            begun = np.isin(self._batch_of, self._batch_of[sorted(self._done)])
            waited = [unit for unit in np.flatnonzero(begun).tolist() if unit not in self._done]
            raise ActstoreError(
                f"{self._shown}: {len(self._done)} samples that are done were not kept: {len(waited)} others of their "
                f"batches never came, {_few([self._name(unit) for unit in waited])}; add those too, say `fail` of "
                "them, or begin a store with part_samples=1, where each is a batch of its own"
            )

    def _finish(self, wholes: Sequence[Whole], units: set[int]) -> None:
        self._done |= units
        self._held += wholes
        if self._store is None and self._held:
            self._create(len(units))
        if self._store is None:
            return
        batches, n_done = np.unique(self._batch_of[sorted(self._done)], return_counts=True)
        for batch, n in zip(batches.tolist(), n_done.tolist(), strict=True):
            if n == self._sizes[batch]:
                self._commit(self._store, batch)

    def _commit(self, store: Store, batch: int) -> None:
        units = np.flatnonzero(self._batch_of == batch)
        own, others = [], []
        for whole in self._held:
            inside = self._batch_of[whole.rows["unit"].to_numpy()] == batch
            own += [whole.only(inside)] if inside.any() else []
            others += [whole.only(~inside)] if not inside.all() else []
        self._held = others
        roles = {
            role: joined([one for one in own if one.role == role]) for role in dict.fromkeys(one.role for one in own)
        }
        rows = [self._rows(one) for one in roles.values()]
        said = [
            {**dict(zip(KEY, self._keys[unit], strict=True)), **self._said.pop(unit, {})} for unit in units.tolist()
        ]
        with suppress(AlreadyCommittedError):  # another process was first
            store.write(
                batch,
                samples=pl.DataFrame(said, schema_overrides=SAMPLES),
                rows=pl.concat(rows, how="diagonal")
                if rows
                else pl.DataFrame(schema={name: ROWS[name] for name in (*KEY, "role")}),
                residual={role: one.values for role, one in roles.items()},
                by={"writer": "actstore.Writer"},
            )
        self._committed.add(batch)
        self._done -= set(units.tolist())

    def _rows(self, whole: Whole) -> pl.DataFrame:
        keys = self._plan[whole.rows["unit"]].select(KEY)
        return pl.concat([keys, whole.rows.drop("unit")], how="horizontal").with_columns(role=pl.lit(whole.role))

    def _create(self, n_units: int) -> None:
        """The store, or that which another process has just made."""
        plan = self._plan
        if not self._is_cut:
            each = max(1, sum(one.values.nbytes for one in self._held) // n_units)
            size = self._part_samples or max(1, min(SHARD_BYTES // each, PART_SAMPLES))
            plan = plan.with_columns(batch=pl.int_range(pl.len()) // size)
        try:
            create(
                self.path,
                plan=plan,
                layers=self.layers,
                d_model=self._d_model,
                dtype=self._dtype or "",
                run=self._run,
                vocabulary=self._vocabulary,
                row_columns=self._columns,
            )
        except ActstoreError:
            if not (self.path / HEADER).exists():
                raise
        self._open()

    def _open(self) -> None:
        """Go on with the store that is there; raises PlanError if it is another."""
        store = Store(self.path)
        header, kept = store.header, [*self._plan.columns] if self._is_cut else self._plan.columns[1:]
        known = {
            "layers": (span(header.layers), span(self.layers)),
            "number type": (header.dtype, self._dtype or header.dtype),
            "width": (header.d_model, self._d_model or header.d_model),
            "columns of the samples": (", ".join(store.plan.columns), ", ".join(self._plan.columns)),
            **{f"run, {name}": (header.run.get(name), self._run.get(name)) for name in {**header.run, **self._run}},
        }
        if odd := [f"{what}: {there!r} there, {here!r} here" for what, (there, here) in known.items() if there != here]:
            raise PlanError(
                f"{self._shown} is another store ({odd[0]}); choose another folder, or what it was made with"
            )
        if not store.plan.select(kept).equals(self._plan.select(kept)):
            raise PlanError(f"{self._shown} is of other samples than those given; choose another folder")
        for name, kind in self._columns.items():
            self._check_column(name, kind, header.rows, str(self.path))
        self._store, self._dtype, self._d_model = store, header.dtype, header.d_model
        self._columns = dict(header.rows)
        self._batch_of = store.plan["batch"].to_numpy()
        self._sizes = dict(store.plan.group_by("batch").len().rows())
        self._committed = set(store.plan["batch"].unique()) - set(store.remaining)

    def _check_columns(self, rows: pl.DataFrame, what: str) -> None:
        """Take note of columns of one's own; ActstoreError for one that rows of this store do not have."""
        for column in rows.iter_columns():
            if column.name not in ("unit", *SAID):
                kind = kind_of(column)
                if self._store is not None or column.name in self._columns:
                    self._check_column(column.name, kind, self._columns, what)
                self._columns[column.name] = kind

    def _check_column(self, name: str, kind: str, known: Mapping[str, str], what: str) -> None:
        if known.get(name) != kind:
            there = f"is {known[name]}" if name in known else "is not among those of the first forward"
            raise ActstoreError(f"{what}: column '{name}' of rows is {kind} here, and {there} in the store")

    def _unit(self, sample: str, condition: str) -> int:
        if (unit := self._units.get((sample, condition))) is not None:
            return unit
        others = sorted({other for name, other in self._units if name == sample})
        if others:
            raise PlanError(f"sample {sample!r} is not planned under condition {condition!r}, but {', '.join(others)}")
        known = list(dict.fromkeys(name for name, _ in self._units))
        raise PlanError(f"sample {sample!r} is not among the {len(known)} given first{nearest(sample, known)}")

    def _name(self, unit: int) -> str:
        sample, condition = self._keys[unit]
        return repr(sample) if condition == "none" else f"{sample!r} ({condition})"

    def _is_committed(self, unit: int) -> bool:
        return bool(self._committed) and int(self._batch_of[unit]) in self._committed

    def _numbers(self, vectors: Any, what: str) -> NDArray[np.generic]:
        """The numbers of vectors, of the type and the width of those before."""
        own, width = dtype_of(vectors), vectors.shape[-1]
        if self._dtype not in (None, own) and not self._rounds:
            raise ActstoreError(
                f"{what}: numbers are of type {own}, those of this store {self._dtype}: convert them, or say "
                "dtype=..., to which all are rounded"
            )
        if self._d_model not in (0, width):
            raise ActstoreError(f"{what}: vectors of width {width}, those of this store have {self._d_model}")
        self._dtype, found = numbers(vectors, self._dtype if self._rounds else None, what)
        self._d_model = width
        return found


def _ids(samples: Any) -> pl.DataFrame:
    """The ids of samples as a table."""
    found = [samples] if isinstance(samples, str) else each(samples)
    if found is None:
        raise ActstoreError(f"samples are ids in a list, or a table with sample_id, not {short(samples)}")
    return pl.DataFrame({"sample_id": found}, strict=False)


def _few(names: Sequence[str]) -> str:
    """Some names, the first of which are said.

    >>> _few(["a", "b", "c", "d"]), _few(["a"])
    ('4: a, b, c, ...', '1: a')
    """
    shown = [names] if isinstance(names, str) else list(map(str, names[:SHOWN]))
    return f"{len(names)}: {', '.join(shown)}{', ...' if len(names) > SHOWN else ''}"
