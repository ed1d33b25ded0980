"""Differences of values of the same samples: from the model as it is, or between two tables of them."""

import polars as pl

from actstore_analyze.study.conditions import NONE
from actstore_analyze.study.intervals import of_mean, paired

__all__ = ["DIFFERENCE", "TOLD", "changes", "of_samples"]

DIFFERENCE = ("difference", "difference_low", "difference_high")
TOLD = pl.DataFrame(schema={**dict.fromkeys(("condition", "sample_id", "metric"), pl.String), "value": pl.Float64})


def of_samples(told: pl.DataFrame) -> pl.DataFrame:
    """condition, metric and DIFFERENCE, of TOLD: each condition less the model as it is."""
    return changes(told.filter(pl.col("condition") != NONE), told.filter(pl.col("condition") == NONE).drop("condition"))


def changes(told: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """condition, metric and DIFFERENCE: the mean of values less those before, of the same samples, and its interval.

    before: as TOLD, of each condition or, without that column, of all. Of right and wrong the interval is Bonett and
    Price's, of other values the bootstrap's.
    """
    on = [name for name in ("condition", "sample_id", "metric") if name in before.columns]
    both = told.join(before.rename({"value": "before"}), on=on, maintain_order="left")
    rows = []
    for (condition, metric), own in both.group_by("condition", "metric", maintain_order=True):
        change = (own["value"] - own["before"]).to_numpy()
        are_shares = bool(own.select(pl.col("value", "before").is_in([0.0, 1.0])).to_numpy().all())
        rows.append((condition, metric, float(change.mean()), *(paired if are_shares else of_mean)(change)))
    schema = {"condition": pl.String, "metric": pl.String} | dict.fromkeys(DIFFERENCE, pl.Float64)
    return pl.DataFrame(rows, schema=schema, orient="row")
