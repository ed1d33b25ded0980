"""Recomputing: some samples of a store run again, and compared with what it holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

import actstore
from actstore.errors import ActstoreError, CorruptError
from actstore.format.schema import KEY
from actstore.progress import bar
from actstore.store import Store
from actstore.write.batch import Batch
from actstore_extract.again.differences import TEXT, between, tolerance
from actstore_extract.again.rerun import Rerun
from actstore_extract.samples.source import drawn

__all__ = ["Recomputed", "recompute", "summary"]

SAMPLES = "select sample_id, condition from samples where status = 'ok'"


@dataclass(frozen=True)
class Recomputed:
    """How far samples run again are from the stored ones, array by array, and in what the runs differ.

    `table`: what, compared, bit_equal, furthest (relative distance), tolerance, within, and the sample, condition and
    layer of the furthest. `differing`: name, then, now. `damaged`: what of the store could not be read to compare it.
    """

    table: pl.DataFrame
    differing: pl.DataFrame
    damaged: list[str]

    @property
    def worst(self) -> dict[str, object] | None:
        """The line that is furthest, if any is beyond its tolerance."""
        beyond = self.table.filter(~pl.col("within")).sort("furthest", descending=True)
        return next(beyond.iter_rows(named=True), None)


def recompute(
    path: Path,
    *,
    sql: str = SAMPLES,
    n: int = 8,
    seed: int = 0,
    batch_size: int | None = None,
    allowed: float | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    other_weights: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Recomputed:
    """Run `n` samples of the query again, chosen by `seed`, and compare vectors, attention and answers with the store.

    They run beside the samples they ran with at first, unless another `batch_size` is given. `allowed` is the relative
    difference tolerated, by the number type if not given. With `other_weights` a model of other weights is compared
    too, and they are named among the differences. Raises ActstoreError where the model, its weights or the samples are
    not at hand, or a sample that was run cannot be.
    """
    store = actstore.open(path)
    units = chosen(store, sql, n, seed)
    again = Rerun(path, device=device, overrides=overrides, other_weights=other_weights, say=say)
    if allowed is None:
        allowed = tolerance(again.run.computed, store.header.dtype)
    found, differing, damaged = [], [], list[CorruptError]()
    with bar(units.height, "samples") as progress:
        for (number,), wanted in store.plan.join(units, on=KEY, how="semi").group_by("batch", maintain_order=True):
            size = batch_size or again.batch_size(number)
            planned = store.plan.filter(pl.col("batch") == number)
            made = again.made(planned, size, only=set(wanted.select(KEY).iter_rows()))
            _check_run(made, wanted)
            part = next(part for part in store.parts if number in part.commit.batches)
            found.append(between(store.header, part, made, wanted.select(KEY), damaged.append))
            progress.advance(wanted.height)
            differing += [(name, str(then), str(now)) for name, (then, now) in again.differing(number, size).items()]
    runs = pl.DataFrame(differing, schema=["name", "then", "now"], orient="row").unique(maintain_order=True)
    table = summary(pl.concat(found), allowed, same_run=runs.is_empty())
    return Recomputed(table, runs, list(dict.fromkeys(map(str, damaged))))


def chosen(store: Store, sql: str, n: int, seed: int) -> pl.DataFrame:
    """`n` of the samples that a query lists, with their conditions, the same for the same seed on every machine."""
    listed = store.sql(sql)
    keys = [name for name in KEY if name in listed.columns]
    if "sample_id" not in keys:
        raise ActstoreError(f"the query has no column sample_id, only {', '.join(listed.columns)}")
    done = store.sql(SAMPLES).join(listed.select(keys), on=keys, how="semi")
    if done.is_empty():
        raise ActstoreError(f"{store}: the query lists no sample that was run")
    places = {f"{name}\n{condition}": i for i, (name, condition) in enumerate(done.select(KEY).iter_rows())}
    return done[[places[name] for name in drawn(places, seed=seed)[:n]]]


def _check_run(made: Batch, wanted: pl.DataFrame) -> None:
    """Raise ActstoreError if one of the samples wanted failed."""
    samples = made.samples.join(wanted, on=KEY, how="semi")
    for row in samples.filter(pl.col("status") == "failed").iter_rows(named=True):
        raise ActstoreError(
            f"sample {row['sample_id']} was run when the store was made, and cannot be run now: {row['error']}; "
            "say where the samples are now: --set samples.path=FOLDER"
        )


def summary(found: pl.DataFrame, allowed: float, *, same_run: bool) -> pl.DataFrame:
    """One line for each array and answer. Texts are to be equal in the same run; in another a near tie changes them."""
    by_distance = found.sort("distance", descending=True, maintain_order=True)
    text_matters = pl.lit(same_run) | (pl.col("what") != TEXT)
    return (
        by_distance.group_by("what")
        .agg(
            pl.col("n").sum().alias("compared"),
            pl.col("equal").sum().alias("bit_equal"),
            pl.col("distance").first().alias("furthest"),
            pl.when(pl.col("distance") > 0).then(pl.col("sample_id", "condition", "layer")).first(),
        )
        .with_columns(tolerance=pl.lit(allowed), within=(pl.col("furthest") <= allowed) | ~text_matters)
        .select("what", "compared", "bit_equal", "furthest", "tolerance", "within", "sample_id", "condition", "layer")
        .sort("what")
    )
