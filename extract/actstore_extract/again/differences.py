"""Differences: how far numbers that were computed again are from those that a store holds."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import CorruptError
from actstore.format.header import Header
from actstore.format.layout import VECTORS
from actstore.format.names import dtype_named
from actstore.format.schema import KEY, samples_of
from actstore.read.parts import Part
from actstore.write.batch import Batch, Values

__all__ = ["ANSWERS", "FLOOR", "NEXT", "POSITIONS", "TEXT", "TOLERANCES", "between", "tolerance"]

# Relative, the norm of the difference over the norm, of all vectors of a sample in one array and layer: what a model
# that computes in this type may differ by between two kernels, devices or sizes of batch, with room. The models that
# ship differ by 2e-6, 0.004 and 0.04 (eager for SDPA, one at a time for 16); another sample is some tenths away.
TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
SPACING = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # of two neighbouring numbers, relative
FLOOR = 1e-2  # attention counts as no smaller than this: 1e-6 beside 2e-6 is no difference

POSITIONS, NEXT, ANSWERS, TEXT = "positions", "next token", "answers", "generated text"
SCHEMA = {
    "what": pl.String,
    "sample_id": pl.String,
    "condition": pl.String,
    "layer": pl.Int32,
    "n": pl.Int64,
    "equal": pl.Int64,
    "distance": pl.Float64,
}
_ROW = [*KEY, "role", "k"]
LeftOut = Callable[[CorruptError], None]
Line = tuple[str, str, str, int | None, int, int, float]


def tolerance(computed: str, stored: str) -> float:
    """The relative difference allowed between vectors computed in one number type and stored in another."""
    return max(TOLERANCES[computed], SPACING[stored])


def between(
    header: Header, part: Part, made: Batch, units: pl.DataFrame, left_out: LeftOut = lambda _: None
) -> pl.DataFrame:
    """Differences between a part and what was `made` again of it, for the `units` (sample_id, condition).

    One line for each array, sample and layer (or block): `n` vectors were compared, `equal` of them are bit-equal, and
    `distance` is the relative one of all of them. Lines without layer: positions and tokens (0, or infinite if they
    differ), next tokens and answers (absolute difference of the probability), generated texts (0, or infinite). What of
    the part is damaged is given to `left_out`; raises CorruptError where its rows are.
    """
    samples = _samples(part, left_out).with_row_index("place").join(units, on=KEY, how="semi")
    again = made.samples.with_row_index("place").join(units, on=KEY, how="semi")
    rows, made_rows = (frame.join(units, on=KEY, how="semi") for frame in (part.rows(), made.rows))
    lines = [*_positions(rows, made_rows), *_said(samples, again)]
    for name, values in made.values.items():
        kind, role = name.split("/", 1)
        if kind in VECTORS:
            both = rows.filter(pl.col("role") == role).join(made_rows, on=_ROW)
        else:
            both = samples.join(again, on=KEY)
        firsts = header.layers if kind in ("residual", "attention") else header.blocks
        if both.height:
            lines += _lines(part, name, values, firsts, both.select(*KEY, "place", "place_right"), left_out)
    return pl.DataFrame(lines, schema=SCHEMA, orient="row")


def _samples(part: Part, left_out: LeftOut) -> pl.DataFrame:
    """The samples of a part, none where their table is damaged."""
    try:
        return part.samples()
    except CorruptError as error:
        left_out(error)
        return pl.DataFrame(schema=samples_of(part.format))


def _lines(
    part: Part, name: str, values: Values, firsts: Sequence[int], places: pl.DataFrame, left_out: LeftOut
) -> Iterator[Line]:
    """The differences of one array, layer after layer, up to one that is damaged."""
    if name not in part.commit.arrays:
        for unit in places.select(KEY).unique(maintain_order=True).iter_rows():
            yield (name, *unit, None, 1, 0, np.inf)
        return
    stored, kind = part.array(name), dtype_named(values.dtype)
    floor = FLOOR if name.startswith("attention/") else 0.0
    old, new = places["place"].to_numpy(), places["place_right"].to_numpy()
    for index, layer in enumerate(firsts):
        try:
            kept = stored.layer(index)[old]
        except CorruptError as error:
            left_out(error)
            return
        again = kind.decode(kind.encode(values.array[index : index + 1]))[0][new]
        compared = places.select(KEY).hstack(_compared(again, kept))
        summed = compared.group_by(KEY, maintain_order=True).agg(pl.len(), pl.col("equal", "off", "size", "held").sum())
        for sample_id, condition, n, n_equal, off, size, held in summed.iter_rows():
            least = max(floor**2 * held, np.finfo(np.float64).tiny)
            yield (name, sample_id, condition, layer, n, n_equal, float(np.sqrt(off / max(size, least))))


def _compared(again: NDArray[np.float32], kept: NDArray[np.float32]) -> pl.DataFrame:
    """Of each pair of vectors (n, ...): equal; the squares of their difference (off) and of what was kept (size); how
    many numbers those are (held). NaN is where a sample has none: where only one has, off is infinite.

    >>> _compared(np.float32([[3, 4], [1, 0]]), np.float32([[3, 5], [1, 0]])).rows()
    [(False, 1.0, 34.0, 2), (True, 0.0, 1.0, 2)]
    """
    n, width = len(kept), max(again.shape[-1], kept.shape[-1])
    x, y = (_padded(each, width).reshape(n, -1).astype(np.float64) for each in (again, kept))
    held = ~np.isnan(y)
    off, size = ((np.where(held, each, 0.0) ** 2).sum(axis=1) for each in (x - y, y))
    misplaced = (np.isnan(x) == held).any(axis=1)
    return pl.DataFrame(
        {
            "equal": ((x == y) | (np.isnan(x) & ~held)).all(axis=1),
            "off": np.where(misplaced, np.inf, off),
            "size": size,
            "held": held.sum(axis=1),
        }
    )


def _padded(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """The values with NaN at the end of the last axis, up to `width`."""
    more = [(0, 0)] * (values.ndim - 1) + [(0, width - values.shape[-1])]
    return np.pad(values, more, constant_values=np.nan)


def _positions(stored: pl.DataFrame, made: pl.DataFrame) -> Iterator[Line]:
    """Whether the roles of each sample have the same positions and tokens as before."""
    columns = [*_ROW, "position", "token_id"]
    counts = stored.group_by(KEY).len("n")
    same = stored.select(columns).join(made.select(columns), on=columns, how="semi", nulls_equal=True)
    found = counts.join(same.group_by(KEY).len("same"), on=KEY, how="full", coalesce=True)
    found = found.join(made.group_by(KEY).len("made"), on=KEY, how="full", coalesce=True).fill_null(0).sort(KEY)
    for sample_id, condition, n, n_same, n_made in found.select(*KEY, "n", "same", "made").iter_rows():
        yield (POSITIONS, sample_id, condition, None, n, n_same, 0.0 if n == n_same == n_made else np.inf)


def _said(stored: pl.DataFrame, made: pl.DataFrame) -> Iterator[Line]:
    """What the model says next, by its probability, and the text that it generates."""
    for row in stored.join(made, on=KEY, suffix=" again").iter_rows(named=True):
        unit = row["sample_id"], row["condition"], None, 1
        if row["next_token_id"] is not None:
            again = dict(zip(row["top_tokens again"] or [], row["top_probabilities again"] or [], strict=True))
            distance = abs(again.get(row["next_token"], 0.0) - row["next_token_probability"])
            yield (NEXT, *unit, int(row["next_token_id"] == row["next_token_id again"]), distance)
        if row["answer_probabilities"] is not None:
            one, other = (np.array(row[f"answer_probabilities{each}"], np.float64) for each in ("", " again"))
            yield (ANSWERS, *unit, int((one == other).all()), float(np.abs(one - other).max()))
        if row["generated_text"] is not None:
            same = row["generated_text"] == row["generated_text again"]
            yield (TEXT, *unit, int(same), 0.0 if same else np.inf)
