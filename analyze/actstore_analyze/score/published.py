"""Scores beside those that the papers published of a model."""

import polars as pl

from actstore.store import Store
from actstore_analyze.published import curves, models, stated
from actstore_analyze.score.study import ALL
from actstore_analyze.study.conditions import NONE
from actstore_analyze.study.knocked import has_knockouts, knocked
from actstore_analyze.study.study import n_layers

__all__ = ["beside", "source_of"]


def beside(table: pl.DataFrame, store: Store, model: str) -> pl.DataFrame:
    """The table of scores with published: what the papers give for the model, NULL where we have nothing.

    The Narrow Gate's table is of all splits together, as the model is and under knockouts in all blocks, on the data
    set that the store's recipe names; the other paper's is of its own model as it is. Raises ActstoreError for a model
    that no paper is about.
    """
    table_of = curves.knockouts().filter(model=models.key(model), source=source_of(store))
    printed = {
        (one, metric): value for one, metric, value in table_of.select("knockout", "metric", "value").iter_rows()
    }
    scores = {tuple(key): value for *key, value in stated.benchmarks(model).iter_rows()}
    in_all = {NONE: NONE}
    if has_knockouts(store):
        in_all |= {one.condition: one.knockout for one in knocked(store) if one.window == n_layers(store)}

    def value(task: str, metric: str, condition: str, split: str) -> float | None:
        known = printed.get((in_all.get(condition, ""), metric)) if split == ALL else None
        return scores.get((task, metric, split)) if known is None and condition == NONE else known

    published = [value(*row) for row in table.select("task", "metric", "condition", "split").iter_rows()]
    return table.with_columns(published=pl.Series(published, dtype=pl.Float64))


def source_of(store: Store) -> str:
    """The data set of a store, as its recipe names it; empty where none does."""
    recipe = store.run.get("recipe")
    samples = recipe.get("samples") if isinstance(recipe, dict) else None
    return str(samples.get("source") or "") if isinstance(samples, dict) else ""
