"""A view: the points of one role of a store under a condition, and all that a page asks about them."""

from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.read.tokens import as_read
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.neighbors import nearest
from actstore_analyze.report.explore import projection
from actstore_analyze.report.explore.projection import Plane
from actstore_analyze.study import held
from actstore_analyze.study.said import SPACES

__all__ = ["NEAREST", "View"]

NEAREST = 14
MOST_COLOURS = 20  # values of a column that have one of their own
HELD_BYTES = 2**30  # vectors of layers that stay in memory
SQUARES_BYTES = 2**26
NO_COLUMNS = {
    *("row_id", "sample_id", "role", "place", "status", "error", "length", "image_start", "image_end", "grid_rows"),
    *("grid_columns", "boi", "eoi", "next_token_id", "token_id", "image", "pictures", "position", "prompt"),
}

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass
class View:
    """Rows of a query (a SELECT with row_id) that have a role and a condition; of more than `most` some, drawn by seed.

    Raises ActstoreError where there are none.
    """

    store: Store
    role: str
    condition: str
    query: str = "from rows"
    most: int = 100_000
    _held: "OrderedDict[int, NDArray[np.float32]]" = field(default_factory=OrderedDict, repr=False)
    _planes: dict[tuple[str, int], Plane] = field(default_factory=dict, repr=False)

    @cached_property
    def rows(self) -> pl.DataFrame:
        """One row for each point, by row_id."""
        own = f"role = {literal(self.role)} and condition = {literal(self.condition)}"
        frame = self.store.sql(
            f"select * from rows where {own} and row_id in (select row_id from (\n{self.query}\n)) order by row_id"
        )
        if not frame.height:
            raise ActstoreError(f"{self.store}: the query has no rows of role {self.role}, condition {self.condition}")
        self.of = frame.height
        if frame.height > self.most:
            drawn = np.random.RandomState(0).permutation(frame.height)[: self.most]  # its stream is frozen
            frame = frame[np.sort(drawn)]
        return frame

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """Residual points at which all the points hold something, ascending."""
        first = held.held_from(self.store, self.rows)
        return tuple(layer for layer in self.store.layers if layer >= first)

    def vectors(self, layer: int) -> NDArray[np.float32]:
        """(n, d) at a layer; the last ones asked for stay in memory, about a gigabyte of them."""
        if layer not in self._held:
            found = held.residual(self.store, self.rows, layer)
            while self._held and (len(self._held) + 1) * found.nbytes > HELD_BYTES:
                self._held.popitem(last=False)
            self._held[layer] = found
        self._held.move_to_end(layer)
        return self._held[layer]

    def plane(self, method: str, layer: int) -> Plane:
        """The points in the plane at a layer; ActstoreError for what cannot be had."""
        if method not in projection.methods():
            remedy = ", umap after: pip install umap-learn" if method == "umap" else ""
            raise ActstoreError(f"no projection '{method}' here; {', '.join(projection.methods())}{remedy}")
        if layer not in self.layers:
            raise ActstoreError(held.left_out(self.store))
        key = method, layer
        if key not in self._planes:
            if method == "pca":
                at = self.layers.index(layer)
                for i in range(at):  # each is turned towards the one before
                    self._pca(i)
                self._pca(at)
            else:
                make = projection.tsne if method == "tsne" else projection.umap
                self._planes[key] = make(self.vectors(layer), self.plane("pca", layer).xy)
        return self._planes[key]

    def _pca(self, at: int) -> None:
        key = "pca", self.layers[at]
        if key not in self._planes:
            before = self._planes["pca", self.layers[at - 1]].xy if at else None
            self._planes[key] = projection.pca(self.vectors(self.layers[at]), before)

    def near(self, layer: int, point: int) -> tuple[Ints, Floats]:
        """The nearest points of one in the full space, nearest first, with their distances; equal ones by index."""
        x = self.vectors(layer)
        squares = np.empty(len(x))
        step = max(1, SQUARES_BYTES // (8 * x.shape[1]))
        for start in range(0, len(x), step):
            apart = x[start : start + step].astype(np.float64) - x[point]
            squares[start : start + step] = np.einsum("nd,nd->n", apart, apart)
        squares[point] = np.inf
        k = min(NEAREST, len(x) - 1)
        best = np.argsort(squares, kind="stable")[:k] if k else np.empty(0, np.int64)
        return best, np.sqrt(squares[best])

    def all_near(self, layer: int) -> tuple[Ints, Floats]:
        """The same of all points (n, k)."""
        k = min(NEAREST, self.rows.height - 1)
        if not k:
            return np.empty((self.rows.height, 0), np.int64), np.empty((self.rows.height, 0))
        found = nearest(self.vectors(layer), k)
        return found.indices, found.distances

    def where(self, text: str) -> Ints:
        """Indices of the points that a condition in SQL holds for, or that a SELECT with row_id gives.

        Raises QueryError for SQL that cannot be run.
        """
        asked = text.strip().rstrip(";")
        if asked.lower().startswith(("select", "from", "with")):
            found = self.store.sql(asked)
            if "row_id" not in found.columns:
                raise ActstoreError(f"the query gives {', '.join(found.columns)} and no row_id")
            ids = found["row_id"]
        else:
            own = f"role = {literal(self.role)} and condition = {literal(self.condition)}"
            ids = self.store.sql(f"select row_id from rows where {own} and (\n{asked}\n)")["row_id"]
        return np.flatnonzero(self.rows["row_id"].is_in(ids.implode()).to_numpy())

    @cached_property
    def columns(self) -> dict[str, dict[str, Any]]:
        """Columns that points can be coloured by: names and codes of few values, or numbers."""
        rows = self.rows
        words = rows.select("token_id").join(self.store.vocabulary, on="token_id", how="left", maintain_order="left")
        rows = rows.with_columns(token=as_read(words["token"], self.store.vocabulary["token"]))
        if {"label", "next_token"} <= {*rows.columns}:
            told, label = rows["next_token"].str.strip_chars(SPACES), rows["label"].cast(pl.String)
            said = told.str.normalize("NFC") == label.str.normalize("NFC")
            if said.any():
                rows = rows.with_columns(said=said.replace_strict({True: "right", False: "wrong"}, default=None))
        found = {name: _column(rows[name]) for name in rows.columns if name not in NO_COLUMNS}
        return {name: one for name, one in found.items() if one is not None}

    @property
    def label(self) -> str | None:
        """The column to colour by where nobody says one."""
        for name in ("label", "said", "next_token", "split", *self.columns):
            if name in self.columns:
                return name
        return None


def _column(values: pl.Series) -> dict[str, Any] | None:
    """A column as colours: {names, codes}, where many are named the first `few` of which have one of their own, or
    {numbers}; None for one that is the same everywhere, or of other types."""
    if values.n_unique() < 2 or values.dtype.is_nested() or values.dtype == pl.Binary:
        return None
    if values.dtype.is_numeric() and values.n_unique() > MOST_COLOURS:
        numbers = values.cast(pl.Float64).to_list()
        return {"numbers": [None if one is None or not np.isfinite(one) else round(one, 6) for one in numbers]}
    texts = values.cast(pl.String).fill_null("none")
    counts = texts.value_counts(sort=True).sort("count", values.name, descending=[True, False])
    names = counts[values.name].to_list()
    if len(names) > MOST_COLOURS:
        if counts["count"][0] == 1:
            return None  # a name for each point
    elif len(names) <= MOST_COLOURS // 2:
        names = sorted(names)
    at = {name: i for i, name in enumerate(names)}
    codes = [at[text] for text in texts]
    missing = values.is_null()
    few = {"few": MOST_COLOURS - 1} if len(names) > MOST_COLOURS else {}
    return {"names": names, "codes": codes} | few | ({"none": codes[missing.arg_max() or 0]} if missing.any() else {})
