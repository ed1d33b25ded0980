"""The plan of a store: every unit of work, cut into batches once and for all."""

from pathlib import Path

import polars as pl

from actstore import process
from actstore.errors import CorruptError, PlanError
from actstore.format.names import LAST_BATCH, PART_SAMPLES
from actstore.format.schema import KEY, PLAN, check_own_columns
from actstore.format.tables import arrow_of, read_table


def prepare(plan: pl.DataFrame) -> pl.DataFrame:
    """A user's plan in the form of the store: batch, sample_id, condition, then the sample's own columns.

    Without a column `batch` it is cut into batches of 2,048 samples. Raises PlanError if a sample occurs twice.

    >>> prepare(pl.DataFrame({"sample_id": ["a", "b"], "label": ["cat", "dog"]})).row(1)
    (0, 'b', 'none', 'dog')
    """
    process.check_forked()
    if "sample_id" not in plan.columns:
        raise PlanError("the plan has no column sample_id")
    own = [name for name in plan.columns if name not in PLAN]
    check_own_columns(own)
    batch = pl.col("batch") if "batch" in plan.columns else pl.int_range(pl.len()) // PART_SAMPLES
    condition = pl.col("condition") if "condition" in plan.columns else pl.lit("none")
    whole = plan.select(
        batch.cast(pl.Int32).alias("batch"),
        pl.col("sample_id").cast(pl.String),
        condition.cast(pl.String).alias("condition"),
        *own,
    )
    if problem := _problem(whole):
        raise PlanError(problem)
    arrow_of(whole)  # says what no table holds
    return whole.sort("batch", maintain_order=True)


def load(path: Path) -> pl.DataFrame:
    """The plan at `path`, whose columns were checked; raises CorruptError for one that nobody could have made."""
    whole = read_table(path)
    if problem := _problem(whole):
        raise CorruptError(f"{path}: {problem}")
    return whole


def _problem(whole: pl.DataFrame) -> str | None:
    twice = whole.filter(whole.select(KEY).is_duplicated())
    if twice.height:
        return f"sample {twice['sample_id'][0]!r} (condition {twice['condition'][0]!r}) is in the plan twice"
    if not whole.height or whole.select(*PLAN).null_count().sum_horizontal().item():
        return "the plan is empty or has a NULL in batch, sample_id or condition"
    if not whole["batch"].is_between(0, LAST_BATCH).all():
        return f"the plan has a batch outside 0..{LAST_BATCH}"
    return None
