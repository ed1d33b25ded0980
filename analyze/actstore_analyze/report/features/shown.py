"""Features of a store as a page and as files: chosen from the table, looked up, written."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from actstore.commands import outputs
from actstore.commands.outputs import written
from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore.store import Store
from actstore_analyze.report.features import exported
from actstore_analyze.report.features.dashboard import Dashboard, dashboards, told
from actstore_analyze.report.features.page import page
from actstore_analyze.sae import neuronpedia
from actstore_analyze.sae.groups import other_model
from actstore_analyze.sae.source import Source, numbered, source
from actstore_analyze.sae.strongest import Strongest

__all__ = ["check", "chosen", "dashboards_of", "telling", "write_export", "write_page"]

WHERE = ["role", "prompt_order", "condition", "layer"]


def chosen(table: pl.DataFrame, features: Sequence[int] | None) -> pl.DataFrame:
    """The rows of these features, all if none are named; ActstoreError for one that is nowhere active."""
    if features is None:
        return table
    if silent := sorted({*features} - {*table["feature"]}):
        raise ActstoreError(f"feature {silent[0]} is active nowhere in these rows at these layers, or does not exist")
    return table.filter(pl.col("feature").is_in(features))


def telling(table: pl.DataFrame, most: int) -> pl.DataFrame:
    """Those that a page shows where none are named: so many of each layer and group."""
    parts = [told(own, most) for own in table.partition_by(WHERE, maintain_order=True)]
    return pl.concat(parts) if parts else table


def dashboards_of(store: Store, call: Strongest, table: pl.DataFrame, descriptions: str | None) -> list[Dashboard]:
    """What a page shows of the rows of a table; ActstoreError where descriptions cannot be read."""
    saes = source(call.saes, call.sae_id, call.hook)
    texts = _texts(saes, descriptions)
    return [
        one
        for rows in table.partition_by(WHERE, maintain_order=True)
        for layer in [int(rows["layer"][0])]
        for one in dashboards(store, call, rows, saes.load(layer, store.header.d_model), texts.get(layer, {}))
    ]


def _texts(saes: Source, descriptions: str | None) -> dict[int, dict[int, str]]:
    """What features are said to be about, by residual point."""
    if descriptions is None:
        return {}
    files = numbered(descriptions, "file of descriptions")
    known = {saes.of[number]: neuronpedia.load(path) for number, path in files.items() if number in saes.of}
    return {layer: {feature: one.text for feature, one in found.of.items()} for layer, found in known.items()}


def check(path: Path) -> None:
    """Raise ActstoreError for another suffix or a path in a store, before anything is computed for it."""
    outputs.check(path)
    if suffix_of(path) != ".html":
        raise ActstoreError(f"{path}: the page is one .html file")


def write_page(store: Store, call: Strongest, table: pl.DataFrame, found: Sequence[Dashboard], path: Path) -> int:
    """Write the page; returns its bytes. Raises ActstoreError where it cannot be written."""
    shares = table.group_by("layer", maintain_order=True).agg(pl.col("feature").n_unique()).sort("layer")
    model = str(store.run.get("model") or store.path.resolve().name).rstrip("/").split("/")[-1]
    text = page(
        f"{model}: features of {Path(call.saes).name}",
        call.methods,
        found,
        list(shares.iter_rows()),
        other_model(store, call.source),
    )
    with written(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return len(text.encode())


def write_export(store: Store, call: Strongest, found: Sequence[Dashboard], folder: Path) -> list[Path]:
    """Write them in Neuronpedia's form below a folder; returns the files."""
    model = str(store.run.get("model") or "model").rstrip("/").split("/")[-1]
    return exported.export(found, folder, model, Path(call.saes).name.replace("{", "").replace("}", ""))
