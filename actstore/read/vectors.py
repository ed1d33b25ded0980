"""Vectors of rows, in the order of the rows, from whichever parts hold them; and attention, part after part."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError, nearest
from actstore.format.given import numbers, short, whole
from actstore.format.header import Header
from actstore.format.schema import KEY
from actstore.limits import Limits
from actstore.read.parts import Part

__all__ = ["Attention", "Rows", "Vectors", "row_ids_of"]

T = TypeVar("T")
R = TypeVar("R")

# A table with a column row_id (polars, pandas, Arrow), or row ids: a list, an array, a series, a tensor.
Rows = pl.DataFrame | Sequence[int] | NDArray[np.int64] | Any


class Each(Protocol):
    """Do something with each of some things, some of which may fail."""

    def __call__(self, function: Callable[[T], R], things: Sequence[T], /) -> list[R]: ...


def one_by_one(function: Callable[[T], R], things: Sequence[T], /) -> list[R]:
    """Each after the one before."""
    return [function(one) for one in things]


class Attention(NamedTuple):
    """Columns of attention (samples, heads or 1, queries), NaN past a sample's last query, and their samples."""

    values: NDArray[np.float32]
    samples: pl.DataFrame


class Vectors:
    """The vectors in the committed parts of a store, within limits of memory."""

    def __init__(self, store: Path | str, header: Header, parts: Sequence[Part], limits: Limits, each: Each) -> None:
        """each: how something is done with each part: one after the other, or several at once."""
        self.store, self.header, self.parts, self.limits, self._each = store, header, parts, limits, each
        self.part_of = {number: part for part in parts for number in part.commit.batches}

    def residual(self, rows: Rows, layer: int) -> NDArray[np.float32]:
        """Vectors (n, d) of rows at one layer."""
        return self._take("residual", rows, [self.header.layer_index(layer)], self.header.d_model)[:, 0]

    def residuals(self, rows: Rows, layers: Sequence[int]) -> NDArray[np.float32]:
        """Vectors (n, len(layers), d) of rows."""
        indices = [self.header.layer_index(layer) for layer in numbers(layers, "layers")]
        return self._take("residual", rows, indices, self.header.d_model)

    def of_block(self, kind: str, rows: Rows, block: int) -> NDArray[np.float32]:
        """Keys or values (n, key heads * head width) of rows in one block."""
        return self._take(kind, rows, [self.header.block_index(block)], self._width(kind))[:, 0]

    def _take(self, kind: str, rows: Rows, firsts: Sequence[int], width: int) -> NDArray[np.float32]:
        """Vectors (n, len(firsts), width) of a kind of array, at indices of its layers or blocks: of each part in one
        read.
        """
        row_ids, many = row_ids_of(rows), len(firsts) > 1
        what = f"{len(row_ids)} vectors" + (f" at {len(firsts)} layers" if many else "")
        instead = "read them by store.batches" if kind == "residual" else "ask for fewer rows at a time"
        n_bytes = 4 * len(row_ids) * len(firsts) * width
        self.limits.check_array(n_bytes, what, "ask for fewer layers" if many else instead)
        out = np.empty((len(row_ids), len(firsts), width), np.float32)
        outs = [out[:, at] for at in range(len(firsts))]
        self._each(lambda one: one[0].take(kind, row_ids, one[1], firsts, outs), [*self._by_part(row_ids)])
        return out

    def _width(self, kind: str) -> int:
        """Width of the keys or values, which all parts share; 0 before the first part is written."""
        arrays = [array for part in self.parts for array in part.commit.arrays.items()]
        widths = {spec.shape[-1] for name, spec in arrays if name.startswith(f"{kind}/")}
        if len(widths) > 1:
            raise ActstoreError(f"{self.store}: {kind} of widths {sorted(widths)} in different parts; read store.parts")
        return widths.pop() if widths else 0

    def batches(self, rows: Rows, layer: int, *, size: int) -> Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]:
        """Rows with their vectors, by row_id, at most `size` at a time and never from two parts at once."""
        row_ids, size = row_ids_of(rows), whole(size, "size", least=1)
        rows = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame({"row_id": row_ids})
        self.header.layer_index(layer)
        return self._pieces(rows, row_ids, layer, size)

    def _pieces(
        self, rows: pl.DataFrame, row_ids: NDArray[np.int64], layer: int, size: int
    ) -> Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]:
        for _, chosen in self._by_part(row_ids):
            part = rows[chosen].sort("row_id")
            for piece in part.iter_slices(size):
                yield piece, self.residual(piece, layer)

    def _by_part(self, row_ids: NDArray[np.int64]) -> Iterator[tuple[Part, NDArray[np.int64]]]:
        """Each part that holds some of the rows, with the indices of those."""
        numbers, group = np.unique(row_ids >> 32, return_inverse=True)
        found = [self.part_of.get(int(number)) for number in numbers]
        for number, part in zip(numbers, found, strict=True):
            if part is None:
                raise ActstoreError(f"row_id {row_ids[row_ids >> 32 == number][0]} is not in this store: {self.store}")
        parts = {part: code for code, part in enumerate(dict.fromkeys(found))}
        codes = np.array([parts[part] for part in found], np.intp)[group]
        order = np.argsort(codes, kind="stable")
        edges = np.searchsorted(codes[order], np.arange(len(parts) + 1))
        for code, part in enumerate(parts):
            assert part is not None
            yield part, order[edges[code] : edges[code + 1]]

    def attention(self, role: str, layer: int, rows: pl.DataFrame | None = None) -> Attention:
        """The attention to the key `role`, or to `mass`, at one layer; ActstoreError if nothing is stored for it.

        rows: a table with sample_id and condition: value i is of the sample of row i; without it of every sample.
        """
        position = self.header.layer_index(layer)
        name = f"attention/{role}"
        holding = [part for part in self.parts if name in part.commit.arrays]
        if not holding:
            kept = ", ".join(self.kept("attention")) or "none"
            raise ActstoreError(f"no attention to '{role}' in {self.store}; it has {kept}")
        shapes = [part.commit.arrays[name].shape for part in holding]
        if len({shape[2:-1] for shape in shapes}) > 1:
            raise ActstoreError(
                f"attention to '{role}' has other numbers of heads in other parts: read it by store.parts"
            )
        known = pl.concat(
            part.samples().with_columns(part=pl.lit(number), place=pl.int_range(pl.len()))
            for number, part in enumerate(holding)
        )
        if rows is not None:
            known = rows.select(KEY).join(known, on=KEY, how="left", maintain_order="left")
            if (lost := known.filter(pl.col("part").is_null())).height:
                raise ActstoreError(f"no attention to '{role}' of sample '{lost['sample_id'][0]}' in {self.store}")
        out_shape = (known.height, *shapes[0][2:-1], max(shape[-1] for shape in shapes))
        self.limits.check_array(8 * math.prod(out_shape), f"attention to '{role}'", "ask for fewer rows at a time")
        values = np.full(out_shape, np.nan, np.float32)
        places = known.with_row_index("target").partition_by("part", as_dict=True)

        def take(one: tuple[tuple[Any, ...], pl.DataFrame]) -> None:
            (number,), of_part = one
            read = holding[number].array(name).layer(position)[of_part["place"].to_numpy()]
            values[of_part["target"].to_numpy(), ..., : read.shape[-1]] = read

        self._each(take, [*places.items()])
        return Attention(values, known.drop("part", "place"))

    def kept(self, kind: str) -> list[str]:
        """Roles that have arrays of a kind, sorted."""
        names = {name for part in self.parts for name in part.commit.arrays if name.startswith(f"{kind}/")}
        return sorted(name.removeprefix(f"{kind}/") for name in names)


def row_ids_of(rows: Rows) -> NDArray[np.int64]:
    """The row ids (n,) of rows with a column row_id, or that are row ids; ActstoreError for anything but integers."""
    found: Any = rows.collect() if isinstance(rows, pl.LazyFrame) else rows
    is_table = hasattr(found, "columns")
    if isinstance(rows, str | bytes | Mapping | Set | Iterator) or not (is_table or hasattr(rows, "__iter__")):
        raise ActstoreError(
            f"rows are wanted, or their ids (n,) in a list or an array, not {short(rows)}; for example: "
            "store.sql(\"from rows where role = 'eoi'\")"
        )
    if is_table:
        columns = getattr(found, "column_names", None) or list(map(str, found.columns))
        indexed = "row_id" in getattr(getattr(found, "index", None), "names", ())  # of pandas
        if "row_id" not in columns and not indexed:
            raise ActstoreError(
                f"the rows have no column row_id, only {', '.join(columns)}"
                + nearest("row_id", columns, "select row_id too, as in: select row_id from rows where role = 'eoi'")
            )
        if columns.count("row_id") > 1:
            raise ActstoreError("the rows have two columns called row_id; keep one of them")
        found = found["row_id"] if "row_id" in columns else found.index.get_level_values("row_id")
    _not_another(found)
    if _has_null(found):
        raise ActstoreError("a row_id is NULL")
    try:
        ids = np.asarray(found)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU
        raise ActstoreError(f"row ids (n,) are wanted: {str(error).partition(chr(10))[0]}") from None
    if ids.ndim != 1:
        raise ActstoreError(f"row ids (n,) are wanted, not an array of shape {ids.shape}")
    ids = ids if ids.size else ids.astype(np.int64)
    if not is_table and ids.dtype == bool:
        raise ActstoreError(
            "row ids are wanted, not a mask of True and False; filter the rows by it: rows.filter(mask)"
        )
    if ids.dtype == object and (odd := [one for one in ids if not isinstance(one, int)]):
        raise ActstoreError(f"a row_id is an integer, not {short(odd[0])}")
    if (ids.dtype == object and len(ids)) or (ids.dtype == np.uint64 and (ids > np.iinfo(np.int64).max).any()):
        raise ActstoreError("a row_id is not in the store: it has more than 63 bits")
    if ids.dtype.kind not in "iu":
        raise ActstoreError(f"a row_id is an integer; these are {getattr(found, 'dtype', ids.dtype)}")
    return ids.astype(np.int64, copy=False)


def _has_null(column: Any) -> bool:
    """Whether a column lacks values: of polars, Arrow and pandas, or masked in numpy."""
    if hasattr(column, "isna"):  # of pandas
        return bool(column.isna().any())
    n_null = getattr(column, "null_count", 0)  # of polars a function, of Arrow a number
    return bool(n_null() if callable(n_null) else n_null) or np.ma.is_masked(column)


def _not_another(column: Any) -> None:
    """ActstoreError for a column of another name, and for an index of pandas without one: its numbers count rows."""
    name = getattr(column, "name", None)
    index = hasattr(column, "get_level_values")
    if name not in (None, "", "row_id") or (index and name != "row_id"):
        what = f"the index {name or 'without a name'}" if index else f"the column {name}"
        raise ActstoreError(f"row ids are wanted, not {what}; give the table itself, or its column row_id")
