"""One forward: what hooks gave of some samples, role by role and layer by layer, until it is whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.header import span
from actstore.format.schema import OWN_TYPES, ROWS, check_modalities

__all__ = ["ONCE", "SAID", "Forward", "Whole", "joined", "kind_of", "mask_of", "rows_of"]

SAID = ("position", "token_id", "modality")  # of rows; None where it is not said
KINDS = {pl.String: "string", pl.Boolean: "boolean"}  # of columns of one's own; numbers are int64 and float64
ONCE = "say `positions` for several of one sample, each once, and `done` after each forward"
Named = Callable[[int], str]  # what an error calls a sample, by its place in the plan


@dataclass(frozen=True)
class Whole:
    """Vectors (layers, n, d) of a role, with their rows: unit (the sample's place in the plan) and what is said."""

    role: str
    rows: pl.DataFrame
    values: NDArray[np.generic]

    def only(self, chosen: NDArray[np.bool_]) -> "Whole":
        """Those rows for which `chosen` (n,) is true."""
        return Whole(self.role, self.rows.filter(pl.Series(chosen)), self.values[:, chosen])


def joined(wholes: Sequence[Whole]) -> Whole:
    """Several of one role as one, by sample."""
    rows = pl.concat((one.rows for one in wholes), how="diagonal")
    order = np.argsort(rows["unit"].to_numpy(), kind="stable")
    return Whole(wholes[0].role, rows[order], np.concatenate([one.values for one in wholes], axis=1)[:, order])


@dataclass(frozen=True)
class _Piece:
    """What one call added: rows with their vectors (n, d)."""

    rows: pl.DataFrame
    values: NDArray[np.generic]


class Forward:
    """What was added since the last one was whole."""

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers = layers
        self.bytes = 0
        self._pieces: dict[str, dict[int, list[_Piece]]] = {}

    def add(self, role: str, layer: int, rows: pl.DataFrame, values: NDArray[np.generic]) -> None:
        """Keep vectors (n, d) with their rows."""
        self._pieces.setdefault(role, {}).setdefault(layer, []).append(_Piece(rows, values))
        self.bytes += values.nbytes

    @property
    def units(self) -> set[int]:
        """The samples that something was added of."""
        pieces = (piece for layers in self._pieces.values() for added in layers.values() for piece in added)
        return {unit for piece in pieces for unit in piece.rows["unit"].unique()}

    def whole(self, named: Named) -> list[Whole]:
        """Each role with its vectors at all layers.

        Raises ActstoreError, naming the sample, unless each has the same rows of a role at every layer, each once.
        """
        return [self._role(role, layers, named) for role, layers in self._pieces.items()]

    def _role(self, role: str, pieces: dict[int, list[_Piece]], named: Named) -> Whole:
        if missing := [layer for layer in self.layers if layer not in pieces]:
            raise ActstoreError(
                f"role '{role}' was added at layers {span(sorted(pieces))} and not at {span(missing)}: did each hook "
                "run? A store has all its layers of every role"
            )
        found = {layer: _sorted(pieces[layer], f"role '{role}', layer {layer}", named) for layer in self.layers}
        first = found[self.layers[0]].rows
        for layer, one in found.items():
            if not one.rows.equals(first):
                raise ActstoreError(
                    f"role '{role}', sample {named(_odd(first, one.rows))}: its rows at layer {layer} are not those at "
                    f"layer {self.layers[0]}; the same samples, positions and columns are added at every layer"
                )
        return Whole(role, first, np.stack([one.values for one in found.values()]))


def _sorted(pieces: Sequence[_Piece], what: str, named: Named) -> _Piece:
    """All pieces of a layer as one, by sample, in the order in which they came."""
    calls = pl.concat(piece.rows.select("unit", call=pl.lit(call)) for call, piece in enumerate(pieces))
    rows = pl.concat((piece.rows for piece in pieces), how="diagonal")
    places = rows.select("unit", "position")
    twice = places.filter(places.is_duplicated() & places["position"].is_not_null())
    unsaid = calls.filter(rows["position"].is_null()).unique().filter(pl.col("unit").is_duplicated())
    if twice.height or unsaid.height:
        unit = min(pl.concat([twice["unit"], unsaid["unit"]]))
        raise ActstoreError(f"{what}: sample {named(unit)} was added twice; {ONCE}")
    order = np.argsort(rows["unit"].to_numpy(), kind="stable")
    return _Piece(rows[order], np.concatenate([piece.values for piece in pieces])[order])


def _odd(one: pl.DataFrame, other: pl.DataFrame) -> int:
    """A sample whose rows differ."""
    counts = [frame.group_by("unit").agg(pl.struct(pl.exclude("unit"))) for frame in (one, other)]
    held = [dict(frame.rows()) for frame in counts]
    units: set[int] = {unit for rows in held for unit in rows if held[0].get(unit) != held[1].get(unit)}
    return min(units)


def rows_of(
    units: NDArray[np.int32], shape: tuple[int, ...], what: str, own: Mapping[str, Any], **said: Any
) -> pl.DataFrame:
    """The rows (n,) or (n, k) of vectors of units (n,), flat, with what is `said` of each, and columns of one's own."""
    k = shape[1] if len(shape) == 2 else 1
    columns = {"unit": pl.Series(np.repeat(units, k), dtype=pl.Int32)}
    for name in SAID:
        values = _spread(said.get(name), shape, f"{what}: {name}")
        try:
            columns[name] = pl.Series(name, values, dtype=ROWS[name])
        except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
            raise ActstoreError(f"{what}: {name}: {str(error).partition(chr(10))[0]}") from None
    if (columns["position"] < 0).any():
        raise ActstoreError(f"{what}: a position is below 0; they count from the sample's first token")
    check_modalities(columns["modality"], what)
    for name, values in own.items():
        if name in columns:
            raise ActstoreError(f"{what}: column '{name}': the store uses this name itself; rename yours")
        columns[name] = _own(name, values, shape, f"{what}: column '{name}'")
    return pl.DataFrame(columns)


def kind_of(column: pl.Series) -> str:
    """The type of a column of one's own, by its name in the header."""
    if column.dtype.is_integer():
        return "int64"
    return "float64" if column.dtype.is_float() else KINDS[column.dtype.base_type()]


def _own(name: str, values: Any, shape: tuple[int, ...], what: str) -> pl.Series:
    """A column of one's own: texts, truth values, integers or floats, one type of them; None where there is none."""
    scalar = values is None or isinstance(values, str | bool | int | float)
    found = np.asarray(values, None if hasattr(values, "dtype") else object)
    flat = [values] * int(np.prod(shape)) if scalar else _flat(found, shape, what)
    try:
        made = pl.Series(name, flat, strict=True)
        kind = OWN_TYPES[kind_of(made)]
    except (TypeError, OverflowError, KeyError, pl.exceptions.PolarsError):
        raise ActstoreError(f"{what}: texts, numbers or truth values are wanted, all of one type") from None
    return made.cast(kind)


def mask_of(mask: Any, shape: tuple[int, ...], what: str) -> NDArray[np.bool_]:
    """Which rows count, flat; all where no mask is given."""
    if mask is None:
        return np.ones(int(np.prod(shape)), bool)
    found = np.asarray(mask)
    if found.shape != shape or not np.isin(found, (0, 1)).all():
        raise ActstoreError(f"{what}: a mask {shape} of true and false is wanted, not {found.dtype} {found.shape}")
    return found.astype(bool).reshape(-1)


def _spread(values: Any, shape: tuple[int, ...], what: str) -> list[Any]:
    """What is said of rows (n,) or (n, k), flat: a word for all, one value each, or (k,) for each sample alike."""
    if values is None or isinstance(values, str):
        return [values] * int(np.prod(shape))
    found = np.asarray(values)
    if found.dtype.kind not in "iuUOT":
        raise ActstoreError(f"{what}: integers are wanted, or words, not {found.dtype}")
    return _flat(found, shape, what)


def _flat(found: NDArray[Any], shape: tuple[int, ...], what: str) -> list[Any]:
    if found.shape == shape[1:] and len(shape) == 2:
        found = np.broadcast_to(found, shape)
    if found.shape != shape:
        alike = f" or {shape[1:]}" if len(shape) == 2 else ""
        raise ActstoreError(f"{what} has shape {found.shape}, the vectors are {shape}{alike}")
    return list(found.reshape(-1).tolist())
