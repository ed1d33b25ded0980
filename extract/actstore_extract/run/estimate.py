"""Estimates: what a run would cost, measured on some of its samples."""

import time
from dataclasses import dataclass

import polars as pl

from actstore.format.layout import ATTENTION
from actstore_extract.run.runner import Run

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a run would cost: rows and bytes (before compression) by array, and seconds, measured on some samples.

    `per_head` are the bytes that attention would take with each head for itself.
    """

    samples: int
    rows: dict[str, int]
    bytes: dict[str, int]
    per_head: int
    seconds: float
    measured_on: int


def estimate(run: Run) -> Estimate:
    """Rows, bytes and seconds of the whole recipe, measured on its first samples; nothing is written."""
    batch_size = run.batch_size or run.recipe.capture.batch_size
    content = run.probe(batch_size)  # the first forward is slower than those to come, too
    count = content.samples.height
    scale = run.planned.height / count
    itemsize = 4 if run.dtype == "float32" else 2
    kept = {
        **content.residual,
        **{f"keys of {name}": array for name, array in content.keys.items()},
        **{f"values of {name}": array for name, array in content.values.items()},
        **{f"attention to {name}": array for name, array in content.attention.items()},
    }
    columns = sum(array[:, :, :1].size for array in content.attention.values() if array.ndim == len(ATTENTION))
    lens = run.lens(content, batch_size)
    once = {} if lens is None else {"lens": lens.optics}
    return Estimate(
        samples=run.planned.height,
        rows={name: round(array.shape[1] * scale) for name, array in kept.items()}
        | {name: optics.n_tokens for name, optics in once.items()},
        bytes={name: round(array.size * itemsize * scale) for name, array in kept.items()}
        | {name: sum(optics.sizes(run.model.d_model, run.dtype).values()) for name, optics in once.items()},
        per_head=round(columns * run.model.n_heads * itemsize * scale),
        seconds=_seconds(run, content.samples["sample_id"], batch_size),
        measured_on=count,
    )


def _seconds(run: Run, probed: pl.Series, batch_size: int) -> float:
    """What the recipe will take, measured on the samples probed, under each condition."""
    extractor, total = run.extractor(batch_size), 0.0
    for planned in run.planned.partition_by("condition", maintain_order=True):
        few = planned.filter(pl.col("sample_id").is_in(probed.implode()))
        few = few if few.height else planned.head(len(probed))  # those that receive a patch are not all
        started = time.monotonic()
        extractor.content(few)
        total += (time.monotonic() - started) * planned.height / few.height
    return total
