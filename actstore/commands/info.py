"""What a store holds, in words and as a table."""

from typing import Any

import polars as pl

from actstore.errors import visible
from actstore.format import thumbnails
from actstore.format.commits import File
from actstore.format.header import span
from actstore.format.layout import VECTORS
from actstore.sql import overview
from actstore.store import Store

CARD = ("model", "architecture", "family", "recipe_name", "revision", "dtype", "attention", "blocked", "device", "seed")


def summary(store: Store, place: str | None = None) -> str:
    """Some lines: run card, progress, layers, bytes; place: where others find it."""
    counts = store.sql(
        "select count(*) filter (status = 'ok') as ok, count(*) filter (status = 'failed') as failed from samples"
    )
    ok, failed = counts.row(0)
    results = store.results()
    wide = thumbnails.pixels(thumbnails.newest(results))
    image_from = store.header.image_from
    lines = {
        "store": f"{place or store} (format {store.header.format}, created {store.header.created})",
        **{name: store.run[name] for name in CARD if store.run.get(name) is not None},
        **({"imported": f"from {made['source']}, as {made['as']}"} if (made := _imported(store)) else {}),
        **({"pulled": _pulled(pulled)} if (pulled := store.header.pulled) else {}),
        **({"not found": ", ".join(missing)} if (missing := store.run.get("not_found")) else {}),
        "layers": f"{span(store.layers)} of width {store.header.d_model}, stored as {store.header.dtype}",
        **({"image from": f"layer {image_from}: what is of the image is NaN before"} if image_from else {}),
        **({"blocks": f"{span(store.blocks)}: keys and values of {', '.join(store.kv)}"} if store.blocks else {}),
        **({"lens": f"{store.header.lens.n_tokens} tokens, for actstore lens"} if store.header.lens else {}),
        "samples": f"{ok} ok, {failed} failed, {store.plan.height - ok - failed} not done",
        "parts": f"{len(store.parts)}, {sum(commit.bytes for commit in store.commits) / 1e6:.1f} MB",
        "results": ", ".join(result.name for result in results) or "none",
        "images": f"in it, up to {wide} pixels wide and high" if wide else "none; see actstore thumbnails",
    }
    width = max(map(len, lines))
    return "".join(f"{name:<{width}}  {visible(str(value))}\n" for name, value in lines.items())


def _imported(store: Store) -> dict[str, str] | None:
    """What an imported store was made of."""
    found = store.run.get("imported")
    return found if isinstance(found, dict) and {"source", "as"} <= found.keys() else None


def _pulled(pulled: dict[str, Any]) -> str:
    """What of which store this holds."""
    roles = pulled.get("roles")
    return f"{'all roles' if roles is None else ', '.join(roles)} of {pulled.get('from')}, at these layers"


def card(store: Store) -> pl.DataFrame:
    """The same for programs: one row with the run card, the counts and the arrays."""
    counts = store.sql("select status, count(*) as n from samples group by all order by all")
    return overview.run(store.header).with_columns(
        planned=pl.lit(store.plan.height),
        samples=pl.Series([counts.to_dicts()]),
        parts=pl.lit(len(store.parts)),
        thumbnails=pl.lit(thumbnails.pixels(thumbnails.newest(store.results())), pl.Int64),
        bytes=pl.lit(sum(commit.bytes for commit in store.commits)),
        arrays=pl.Series([roles(store).to_dicts()]),
    )


def roles(store: Store) -> pl.DataFrame:
    """One row for each array: kind, role, its number of vectors or samples, bytes on disk."""
    found = [
        (*name.split("/", 1), spec.shape[1], _bytes(commit.files, name))
        for commit in store.commits
        for name, spec in commit.arrays.items()
    ]
    schema = {"kind": pl.String, "role": pl.String, "n": pl.Int64, "bytes": pl.Int64}
    frame = pl.DataFrame(found, schema=schema, orient="row")
    return frame.group_by("kind", "role").sum().sort(pl.col("kind").cast(pl.Enum([*VECTORS, "attention"])), "role")


def _bytes(files: dict[str, File], array: str) -> int:
    return sum(file.size for name, file in files.items() if name.startswith(f"{array}/"))
