"""A batch: the tables and arrays of one unit of work, checked against header and plan before they are written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError, PlanError
from actstore.format import layout
from actstore.format.header import Header
from actstore.format.names import ROLE_NAME, WIDEST, dtype_named
from actstore.format.schema import KEY, STATUSES, check_modalities, conform, rows_of, samples_of

Arrays = Mapping[str, NDArray[np.generic]]  # by role


class Layered(Protocol):
    """An array, or what can say its shape and give some layers of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Layers first."""

    def __getitem__(self, layers: slice, /) -> NDArray[np.generic]:
        """Some layers, whole."""


@dataclass(frozen=True)
class Values:
    """One array of a part, and how it is to be stored."""

    array: Layered
    dtype: str
    dimensions: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """What a part will hold: samples, rows (with row_id, k and place) and the arrays by name."""

    samples: pl.DataFrame
    rows: pl.DataFrame
    values: dict[str, Values]

    @property
    def bytes(self) -> int:
        """Bytes of the arrays before compression."""
        return sum(
            math.prod(value.array.shape) * dtype_named(value.dtype).stored.itemsize for value in self.values.values()
        )


def check(
    header: Header,
    planned: pl.DataFrame,
    samples: pl.DataFrame,
    rows: pl.DataFrame,
    vectors: Mapping[str, Arrays],
    attention: Arrays,
    attention_dtype: str,
) -> Batch:
    """The batch in the form of the store; `vectors` are the arrays by role of residual, keys and values.

    Raises PlanError if the samples are not those planned, ActstoreError for arrays that do not fit the tables and for
    vectors that are not finite, but for those of images below the layer that takes them in, which are NaN.
    """
    samples = _samples(header, planned, samples)
    rows = _rows(header, int(planned["batch"][0]), rows, samples)
    for array in [array for arrays in (*vectors.values(), attention) for array in arrays.values()]:
        if not isinstance(getattr(array, "dtype", None), np.dtype):
            raise ActstoreError(
                f"arrays of numpy are wanted, not {type(array).__name__}; of torch: x.float().cpu().numpy(), which is "
                "stored in the number type of the store"
            )
        if array.ndim < 3 or not array.size:
            raise ActstoreError(f"an array of shape {array.shape}; none is empty, and each has layers first")
    _check_vectors(header, rows, vectors)
    values = {
        f"{kind}/{role}": Values(array, header.dtype, layout.VECTORS[kind])
        for kind, arrays in vectors.items()
        for role, array in arrays.items()
    }
    for key, array in attention.items():
        dimensions = layout.MASS if key == "mass" else layout.ATTENTION
        expected = (len(header.layers), samples.height)
        if array.ndim != len(dimensions) or array.shape[:2] != expected:
            raise ActstoreError(f"attention '{key}' has shape {array.shape}; expected {expected} + {dimensions[2:]}")
        values[f"attention/{_role(key)}"] = Values(array, attention_dtype, dimensions)
    return Batch(samples, rows, values)


def _samples(header: Header, planned: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    filled = _filled(conform(samples, samples_of(header.form), "samples"), status="ok", condition="none")
    if bad := set(filled["status"]) - set(STATUSES):
        raise ActstoreError(f"status {bad.pop()!r} of a sample is not one of {', '.join(STATUSES)}")
    if filled["sample_id"].null_count():
        raise ActstoreError("a sample has no sample_id")
    if sorted(filled.select(KEY).rows()) != sorted(planned.select(KEY).rows()):
        raise PlanError(f"the samples given for batch {planned['batch'][0]} are not those of the plan")
    return filled


def _rows(header: Header, batch: int, rows: pl.DataFrame, samples: pl.DataFrame) -> pl.DataFrame:
    filled = _filled(conform(rows, rows_of(header.form, header.rows), "rows"), condition="none")
    ok = samples.filter(pl.col("status") == "ok").select(KEY)
    strange = filled.join(ok, on=KEY, how="anti", nulls_equal=True)
    if strange.height:
        raise ActstoreError(f"rows of sample {strange['sample_id'][0]!r}, which is not an ok sample of batch {batch}")
    for role in filled["role"].unique():
        _role(role)
    check_modalities(filled["modality"], "rows")
    return filled.with_columns(
        row_id=pl.lit(batch << 32, pl.Int64) + pl.int_range(pl.len()),
        k=pl.coalesce(pl.col("k"), pl.int_range(pl.len()).over(*KEY, "role")).cast(pl.Int32),
        place=pl.int_range(pl.len()).over("role").cast(pl.Int32),
    )


def _check_vectors(header: Header, rows: pl.DataFrame, vectors: Mapping[str, Arrays]) -> None:
    counts = dict(rows.group_by("role").len().rows())
    given = {role for arrays in vectors.values() for role in arrays}
    if counts.keys() != given:
        raise ActstoreError(f"rows of roles {sorted(counts)}, but vectors of roles {sorted(given)}")
    if odd := sorted(vectors["keys"].keys() ^ vectors["values"].keys()):
        raise ActstoreError(f"role '{odd[0]}' has keys or values, but not both")
    if vectors["keys"] and not header.blocks:
        raise ActstoreError("this store keeps no keys and values: create it with blocks=, those they come from")
    for kind, arrays in vectors.items():
        firsts = header.layers if kind == "residual" else header.blocks
        for role, array in arrays.items():
            width = header.d_model if kind == "residual" else min(next(iter(arrays.values())).shape[-1], WIDEST)
            expected = (len(firsts), counts[role], width)
            if array.shape != expected:
                what = "vectors" if kind == "residual" else kind
                raise ActstoreError(f"{what} of role '{role}' have shape {array.shape}; expected {expected}")
            own = rows.filter(pl.col("role") == role)
            of_image = (own["modality"] == "image").fill_null(value=False).to_numpy()
            for first, values in zip(firsts, array, strict=True):
                nothing = of_image & (first < header.image_from)
                _check_finite(header.dtype, values, nothing, own["sample_id"], f"role '{role}', {_at(kind, first)}")


def _at(kind: str, first: int) -> str:
    return f"layer {first}" if kind == "residual" else f"{kind} of block {first}"


def _check_finite(
    dtype: str, values: NDArray[np.generic], nothing: NDArray[np.bool_], sample_ids: pl.Series, where: str
) -> None:
    """A NaN would look like a lost chunk, an inf like the overflow of float16 that it mostly is; `nothing` (n,) are
    vectors of images that are not there yet."""
    kind = dtype_named(dtype)
    stored = kind.encode(values)
    finite = kind.is_finite(stored).all(axis=1)
    if not (finite | nothing).all():
        raise ActstoreError(
            f"sample {sample_ids[int(np.argmin(finite | nothing))]!r}, {where}: a value is not finite in {dtype}; "
            "store it as bfloat16 or float32, or mark the sample as failed"
        )
    if nothing.any() and not np.isnan(kind.decode(stored[nothing])).all():
        raise ActstoreError(f"{where}: the image is not there yet (image_from), and its vectors are NaN; these are not")


def _filled(frame: pl.DataFrame, **defaults: str) -> pl.DataFrame:
    return frame.with_columns(pl.col(name).fill_null(value) for name, value in defaults.items())


def _role(name: str) -> str:
    if not ROLE_NAME.fullmatch(name or ""):
        raise ActstoreError(f"role {name!r}: use lower-case letters, digits and single hyphens")
    return name
