"""Pieces: some samples of a source with their vectors; which of their positions are kept, and as what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.creation.writer import Writer
from actstore.errors import ActstoreError, nearest
from actstore_extract.run.importing.files import Array
from actstore_extract.run.importing.source import ALL, Vectors, shape_of

__all__ = ["Piece", "Rows", "rows_by_role"]

EMPTY = "if it is padding, say lengths in a table (--samples) and --padding; else it was never written: make it again"
COLUMNS = ("sample_id", "role", "position")


@dataclass(frozen=True)
class Rows:
    """A user's table of rows, and the places of its rows by role and sample."""

    table: pl.DataFrame
    places: Mapping[str, Mapping[str, Sequence[int]]]

    @property
    def own(self) -> pl.DataFrame:
        """The user's own columns."""
        return self.table.drop(COLUMNS)


@dataclass(frozen=True)
class Piece:
    """Samples (n), their vectors by role and layer, (n, k, d), and what is known of roles: positions, tokens, modality.

    lengths: tokens of each sample, if they are told; the rest of the positions of whole samples is padding, on a side.
    """

    ids: Sequence[str]
    vectors: Vectors
    positions: Mapping[str, NDArray[np.integer[Any]]]
    token_ids: Mapping[str, NDArray[np.integer[Any]]]
    modalities: Mapping[str, str]
    lengths: NDArray[np.int64] | None = None
    padding: str | None = None

    def add(self, writer: Writer, rows: Rows | None) -> None:
        """Add it to a writer: all of it, or those rows alone.

        Raises ActstoreError for vectors without a number other than 0, and for rows that no sample has.
        """
        self._check_filled()
        for (role, layer), array in self.vectors.items():
            if rows is not None:
                self._add_rows(writer, role, layer, array, rows)
            else:
                writer.add(
                    role,
                    layer,
                    array,
                    self.ids,
                    positions=self._positions(role, array),
                    mask=self._tokens(role, array),
                    token_ids=self.token_ids.get(role),
                    modality=self.modalities.get(role),
                )

    def _positions(self, role: str, array: Array) -> NDArray[np.integer[Any]] | None:
        begins = self._begins(role, array)
        if begins is None:
            return self.positions.get(role)
        found: NDArray[np.int64] = np.arange(shape_of(array)[1]) - begins[:, None]
        return np.maximum(found, 0)  # what is below 0 is padding, left out

    def _begins(self, role: str, array: Array) -> NDArray[np.int64] | None:
        """The place of each sample's first token (n,), where roles are whole samples and lengths are told."""
        if self.lengths is None or role != ALL or role not in self.positions:
            return None
        width = shape_of(array)[1]
        if (odd := (self.lengths < 1) | (self.lengths > width)).any():
            name = self.ids[int(np.argmax(odd))]
            raise ActstoreError(f"sample '{name}' has length {self.lengths[odd][0]}, its vectors {width} positions")
        if (self.lengths < width).any() and self.padding is None:
            raise ActstoreError(
                "some samples are shorter than others: say where they are padded, --padding right or left"
            )
        return width - self.lengths if self.padding == "left" else np.zeros_like(self.lengths)

    def _tokens(self, role: str, array: Array) -> NDArray[np.bool_] | None:
        """Which positions (n, k) are tokens; None where all are."""
        if (begins := self._begins(role, array)) is None:
            return None
        assert self.lengths is not None
        places = np.arange(shape_of(array)[1])
        found: NDArray[np.bool_] = (places >= begins[:, None]) & (places < (begins + self.lengths)[:, None])
        return found

    def _add_rows(self, writer: Writer, role: str, layer: int, array: Array, rows: Rows) -> None:
        if role != ALL or role not in self.positions:
            raise ActstoreError("--rows chooses positions of whole samples; of this source the roles are known already")
        begins, width = self._begins(role, array), shape_of(array)[1]
        for wanted, of_sample in rows.places.items():
            chosen = [(place, row) for place, name in enumerate(self.ids) for row in of_sample.get(name, ())]
            if not chosen:
                continue
            places, numbers = np.array(chosen).T
            at = rows.table["position"][numbers].to_numpy()
            columns = at if begins is None else at + begins[places]
            ends = np.full(len(self.ids), width) if self.lengths is None else self.lengths
            if (odd := (at < 0) | (at >= ends[places])).any():
                place = int(np.argmax(odd))
                name = self.ids[places[place]]
                raise ActstoreError(
                    f"role '{wanted}': position {at[place]} of sample '{name}', which has {ends[places[place]]}"
                )
            ids, own = [self.ids[place] for place in places], rows.own[numbers].to_dict(as_series=False)
            writer.add(wanted, layer, array[places, columns], ids, positions=at, columns=own)

    def _check_filled(self) -> None:
        """Raise ActstoreError for a vector that is 0 in every number at every layer: padding, or never written."""
        empty: dict[str, NDArray[np.bool_]] = {}
        for (role, _), array in self.vectors.items():
            zero = ~np.asarray((array != 0).any(-1))
            empty[role] = empty[role] & zero if role in empty else zero
        for role, zero in empty.items():
            array = next(array for (name, _), array in self.vectors.items() if name == role)
            tokens = self._tokens(role, array)
            if (found := np.argwhere(zero if tokens is None else zero & tokens)).size:
                sample, place = map(int, found[0])
                where = f"sample '{self.ids[sample]}', role '{role}', vector {place}"
                raise ActstoreError(f"{where}: all its numbers are 0 at every layer; {EMPTY}")


def rows_by_role(table: pl.DataFrame, samples: Sequence[str]) -> Rows:
    """A user's table of rows, by role and sample; ActstoreError for a sample that is not imported."""
    if odd := [name for name in COLUMNS if name not in table.columns]:
        raise ActstoreError(f"the table of rows has the columns {', '.join(COLUMNS)}; '{odd[0]}' is missing")
    if table.select(COLUMNS).null_count().sum_horizontal().item() or not table["position"].dtype.is_integer():
        raise ActstoreError("each row of the table of rows has a sample_id, a role and a position, which is an integer")
    known, found = set(samples), dict[str, dict[str, list[int]]]()
    for number, (sample, role) in enumerate(table.select("sample_id", "role").rows()):
        if str(sample) not in known:
            raise ActstoreError(
                f"the table of rows: sample '{sample}' is not imported{nearest(str(sample), sorted(known))}"
            )
        found.setdefault(str(role), {}).setdefault(str(sample), []).append(number)
    return Rows(table, found)
