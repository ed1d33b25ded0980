"""Vectors as measures read them: where an adapter puts the image in later, its positions hold nothing before."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.read.vectors import Rows
from actstore.store import Store

__all__ = [
    "NothingHeldError",
    "batches",
    "by_layer",
    "held_from",
    "holds",
    "left_out",
    "residual",
    "residuals",
    "say_left_out",
]

Vectors = NDArray[np.float32]


class NothingHeldError(ActstoreError):
    """Some of the vectors are of an image that the model has not taken in yet."""


def residual(store: Store, rows: Rows, layer: int) -> Vectors:
    """Vectors (n, d) of rows at one layer; NothingHeldError where some hold nothing."""
    return _checked(store, store.residual(rows, layer), layer)


def batches(
    store: Store, rows: str | Rows, layer: int, *, size: int = 65_536
) -> Iterator[tuple[pl.DataFrame, Vectors]]:
    """Rows with their vectors, as the store gives them; NothingHeldError where some hold nothing."""
    for own, x in store.batches(rows, layer, size=size):
        yield own, _checked(store, x, layer)


def residuals(store: Store, rows: Rows, layers: Sequence[int]) -> Vectors:
    """Vectors (n, L, d) of rows at several layers, in one read; NothingHeldError where some hold nothing."""
    x = store.residual(rows, layers=layers)
    for at, layer in enumerate(layers):
        _checked(store, x[:, at], layer)
    return x


def by_layer(store: Store, rows: Rows, layers: Sequence[int]) -> Iterator[tuple[int, Vectors | NothingHeldError]]:
    """Each of the layers with the vectors (n, d) of rows there, of all layers in one read; or why they hold nothing."""
    x = store.residual(rows, layers=layers)
    for at, layer in enumerate(layers):
        try:
            yield layer, _checked(store, x[:, at], layer)
        except NothingHeldError as error:
            yield layer, error


def held_from(store: Store, rows: pl.DataFrame) -> int:
    """The first layer at which all of the rows hold something."""
    first = store.layers[0]
    late = first < store.header.image_from and bool(np.isnan(store.residual(rows, first)[:, 0]).any())
    return store.header.image_from if late else 0


def holds(store: Store, query: str, layer: int) -> bool:
    """Whether all rows of a query, which has row_id, hold something at a layer."""
    early = f"from rows where modality = 'image' and row_id in (select row_id from (\n{query}\n))"
    return layer >= store.header.image_from or not store.sql(f"select count(*) {early}").item()


def left_out(store: Store) -> str:
    """What is said where a table lacks layers."""
    layer = store.header.image_from
    return f"{store}: this model takes the image in at layer {layer}; what has its positions is measured from there"


def say_left_out(store: Store, layers: Sequence[int], say: Callable[[str], None]) -> None:
    """Say it if some of the layers are below the one that takes the image in."""
    if layers and min(layers) < store.header.image_from:
        say(left_out(store))


def _checked(store: Store, x: Vectors, layer: int) -> Vectors:
    if layer < store.header.image_from and len(x) and np.isnan(x[:, 0]).any():
        raise NothingHeldError(
            f"layer {layer}: some of these vectors are of an image, which this model takes in at layer "
            f"{store.header.image_from}: before, they hold nothing; choose --layers from there on, or rows of text"
        )
    return x
