"""Steering: what a store's samples say under it, beside what they say without."""

from pathlib import Path
from typing import NamedTuple

import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.study.conditions import NONE, samples_under, specs
from actstore_analyze.study.intervals import wilson
from actstore_analyze.study.said import SPACES
from actstore_analyze.study.study import EVERYTHING

__all__ = ["SHARES", "Steered", "has_steers", "steered"]

SAID = ("generated_text", "next_token")
SHARES = ("changed", "share", "share_before")


class Steered(NamedTuple):
    """`said`: what each sample says, in a column for each condition; `summary`: a row for each condition."""

    said: pl.DataFrame
    summary: pl.DataFrame


def has_steers(store: Store) -> bool:
    """Whether any condition of the store steers."""
    return bool(specs(store, "steer"))


def steered(store: Store, sql: str = EVERYTHING) -> Steered:
    """What the samples of a query say as the model is and under each steer, generated or else the next token.

    said: sample_id, label where there is one, none, then the conditions. summary: condition, role, layer, mode, scale,
    generated, vectors, n, changed (share of samples that say something else than without), commonest (what is said
    most often), share, share_before (of that in what is said without). ActstoreError for a store without steers.
    """
    steers = specs(store, "steer")
    if not steers:
        raise ActstoreError(f"{store} has no steer among its conditions; see the recipe digits-gated-steer")
    asked = samples_under([NONE, *steers], sql)
    columns = store.sql(f"from ({asked}) limit 0").columns
    label = 'cast("label" as varchar)' if "label" in columns else "null::varchar"
    texts = store.sql(
        f"select sample_id, condition, {label} as label, "
        f"trim(coalesce({', '.join(SAID)}), '{SPACES}') as text from ({asked}) order by sample_id, condition"
    )
    wide = texts.pivot("condition", index=["sample_id", "label"], values="text", maintain_order=True)
    wide = wide.select("sample_id", "label", *(name for name in (NONE, *steers) if name in wide.columns))
    rows = [_summary(name, spec[0], wide) for name, spec in steers.items() if name in wide.columns]
    return Steered(wide if wide["label"].count() else wide.drop("label"), pl.DataFrame(rows))


def _summary(name: str, spec: dict[str, object], texts: pl.DataFrame) -> dict[str, object]:
    """A row of the summary."""
    both = texts.select(before=NONE if NONE in texts.columns else name, after=name).drop_nulls("after")
    commonest, n = both["after"].value_counts(sort=True).row(0) if both.height else (None, 0)
    told = both.drop_nulls("before") if NONE in texts.columns else both.clear()
    shares = {
        "changed": _share("changed", told.filter(pl.col("before") != pl.col("after")).height, told.height),
        "share": _share("share", n, both.height),
        "share_before": _share("share_before", told.filter(pl.col("before") == commonest).height, told.height),
    }
    return {
        "condition": name,
        "role": spec["steer"],
        **{key: spec[key] for key in ("layer", "mode", "scale", "generated")},
        "vectors": " - ".join(Path(str(one)).name for one in _listed(spec["files"])),
        "n": both.height,
        **shares["changed"],
        "commonest": commonest,
        **shares["share"],
        **shares["share_before"],
    }


def _share(name: str, count: int, n: int) -> dict[str, float | None]:
    """The share of n samples that count are, and its interval; NULL of none."""
    values = (count / n, *wilson(count, n)) if n else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
