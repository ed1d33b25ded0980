"""Columns of samples: how they are called, and those that every sample has."""

import re
from collections.abc import Iterable, Sequence

import polars as pl

from actstore.errors import nearest
from actstore_extract.samples.errors import SamplesError

__all__ = ["KEPT", "check_present", "completed", "identifier", "renamed"]

KEPT = ("sample_id", "image")  # what every sample has


def check_present(columns: Iterable[str], present: Sequence[str], where: str) -> None:
    """SamplesError for a column that is not `present`, with the nearest that is."""
    for column in columns:
        if column not in present:
            hint = nearest(column, list(present), f"it has {', '.join(present)}")
            raise SamplesError(f"{where} has no column '{column}'{hint}")


def renamed(table: pl.DataFrame, names: Sequence[tuple[str, str]], where: str) -> pl.DataFrame:
    """The table's columns by (name, column), a column under several names too; SamplesError where two get one name."""
    owners: dict[str, str] = {}
    for name, column in names:
        if name in owners:
            raise SamplesError(
                f"{where}: columns '{owners[name]}' and '{column}' would both be '{name}'; name one of them otherwise: "
                f'[samples] columns = {{ {name}_2 = "{column}" }}'
            )
        owners[name] = column
    return table.select(pl.col(column).alias(name) for name, column in names)


def completed(table: pl.DataFrame, where: str) -> pl.DataFrame:
    """The table with sample_id (row-000000 and so on where it has none) and image (else NULL), both texts.

    `image` may be lists of texts, NULL where they are empty; it stays so unless no list has more than one.
    """
    if "sample_id" not in table.columns:
        numbers = pl.int_range(table.height, eager=True).cast(pl.String).str.zfill(6)
        table = table.insert_column(0, ("row-" + numbers).alias("sample_id"))
    if "image" not in table.columns:
        table = table.with_columns(image=pl.lit(None, pl.String))
    table = table.with_columns(_pictures(table["image"]))
    texts = [name for name in KEPT if table[name].dtype != pl.List(pl.String) or name != "image"]
    for name in texts:
        kind = table[name].dtype
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            raise SamplesError(f"{where}: column '{name}' holds {kind}, not one text for each sample")
    return table.with_columns(pl.col(*texts).cast(pl.String))


def _pictures(names: pl.Series) -> pl.Series:
    """Lists of pictures without those that are missing, NULL where none is left; one text each where no list has more.

    >>> [_pictures(pl.Series("image", lists)).to_list() for lists in ([["a", "b"], [None]], [["a"], []])]
    [[['a', 'b'], None], ['a', None]]
    """
    if names.dtype != pl.List(pl.String):
        return names
    there = names.list.drop_nulls()
    if (there.list.len() > 1).any():
        return there.to_frame().select(pl.when(pl.all().list.len() > 0).then(pl.all())).to_series()
    return there.list.first()


def identifier(name: str) -> str:
    """A column's name as the plan takes it.

    >>> identifier("Answer Type"), identifier("2nd")
    ('answer_type', 'column_2nd')
    """
    plain = re.sub(r"[^a-z0-9_]+", "_", name.lower())
    return plain if plain[:1].isalpha() else f"column_{plain}"
