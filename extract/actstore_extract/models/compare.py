"""A store against a reference: where it differs, and by how much."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import actstore
from actstore_extract.models.reference import Reference, Said

__all__ = ["Differences", "compare"]

ROLES = ("eoi", "last-image", "first-image", "image", "last", "text")


@dataclass
class Differences:
    """Largest differences of a store; what is wrong in words.

    `residual` is relative to the largest value of a point, `attention` and `probability` absolute. `without` are the
    blocks whose attention is NaN throughout, `failed` the reasons of samples that were not run.
    """

    residual: float = 0.0
    attention: float = 0.0
    probability: float = 0.0
    without: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


def compare(path: Path, reference: Reference, keys: Sequence[str], *, sees: bool) -> Differences:
    """What a store says of each sample against what the model itself said; `keys` are the attention's key roles."""
    found = Differences()
    with closing(actstore.open(path)) as store:
        rows = store.sql("select row_id, sample_id, role, position from rows order by row_id")
        samples = store.sql("select * from samples order by sample_id")
        for info in samples.iter_rows(named=True):
            said = reference.samples[info["sample_id"]]
            if info["status"] != "ok":
                found.failed.append(str(info["error"]))
                continue
            mine = rows.filter(pl.col("sample_id") == info["sample_id"])
            _rows(found, store, mine, said, info, sees=sees)
            _next(found, info, said)
        for role in keys:
            _attention(found, store, role, rows, reference)
    return found


def _rows(found: Differences, store: Any, mine: pl.DataFrame, said: Said, info: dict[str, Any], *, sees: bool) -> None:
    where = info["sample_id"]
    if info["length"] != len(said.ids):
        found.wrong.append(f"{where}: {info['length']} tokens, not {len(said.ids)}")
        return
    found.roles += [f"{where} {wrong}" for wrong in (_roles(mine, said, info) if sees else _words(mine, said))]
    vectors = mine.filter(pl.col("position").is_not_null())
    at = vectors["position"].to_numpy()
    if len(at) and at.max() >= len(said.ids):
        found.wrong.append(f"{where}: a position beyond the sample")
        return
    for layer in store.layers:
        want = said.residual[layer]
        if want is None:
            found.wrong.append(f"{where} layer {layer}: a row is stored, and the stream is not one vector a token")
            return
        found.residual = max(found.residual, _relative(store.residual(vectors, layer), want[at]))


def _relative(mine: NDArray[Any], want: NDArray[Any]) -> float:
    if mine.shape != want.shape or not np.isfinite(mine).all():
        return float("inf")
    return float(np.abs(mine - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-12))


def _words(mine: pl.DataFrame, said: Said) -> list[str]:
    at = mine.filter(pl.col("role") == "all")["position"].to_list()
    return [] if at == list(range(len(said.ids))) else [f"all {at}"]


def _roles(mine: pl.DataFrame, said: Said, info: dict[str, Any]) -> list[str]:
    at = {role: mine.filter(pl.col("role") == role)["position"].drop_nulls().to_list() for role in ROLES}
    image = said.image.tolist()
    want = {
        "image": image,
        "first-image": image[:1],
        "last-image": image[-1:],
        "eoi": [] if said.eoi is None else [said.eoi],
        "last": [len(said.ids) - 1],
        "text": list(range(said.stop + int(said.begins), len(said.ids))) if image else said.words,
    }
    wrong = [f"{role} {_short(at[role])} not {_short(want[role])}" for role in want if at[role] != want[role]]
    return wrong + _grid(info, len(image))


def _short(at: list[int]) -> str:
    return str(at) if len(at) < 2 else f"{at[0]}..{at[-1]} ({len(at)})"


def _grid(info: dict[str, Any], n_image: int) -> list[str]:
    """A grid holds the image tokens or, after an overview, the last of them, and lies as the picture does."""
    rows, columns = info["grid_rows"], info["grid_columns"]
    if rows is None:
        return []
    wide = {"s2": 1, "s3": -1}.get(info["sample_id"], 0)
    lies = (columns > rows) - (columns < rows)
    if rows * columns > n_image or (lies and lies != wide):
        return [f"grid {rows} x {columns} of {n_image} image tokens"]
    return []


def _next(found: Differences, info: dict[str, Any], said: Said) -> None:
    if info["next_token_id"] is not None:
        logits = said.logits.astype(np.float64)
        chances = np.exp(logits - logits.max())
        chances /= chances.sum()
        off = abs(float(chances[info["next_token_id"]]) - info["next_token_probability"])
        found.probability = max(found.probability, off)
        if info["next_token_id"] != int(logits.argmax()):
            found.wrong.append(f"{info['sample_id']}: next token {info['next_token_id']}, not {logits.argmax()}")
    if info["generated_text"] is not None and info["generated_text"] != said.text:
        found.text.append(f"{info['sample_id']}: {info['generated_text']!r} not {said.text!r}")


def _attention(found: Differences, store: Any, role: str, rows: pl.DataFrame, reference: Reference) -> None:
    if not rows.filter((pl.col("role") == role) & pl.col("position").is_not_null()).height:
        return  # no sample has that role: whether that is right, the roles say
    for layer in store.layers[:-1]:
        kept = store.attention(role, layer)
        for name, values in zip(kept.samples["sample_id"], kept.values, strict=True):
            said = reference.samples[name]
            mine = rows.filter(pl.col("sample_id") == name)
            queries = mine.filter(pl.col("role") == "text")["position"].to_list()
            key = mine.filter(pl.col("role") == role)["position"].to_list()
            if not queries or not key or key[0] is None:
                continue
            column = np.asarray(values).reshape(-1, np.asarray(values).shape[-1])[0, : len(queries)]
            if np.isnan(column).all():
                found.without = sorted({*found.without, layer})
                if layer in said.attention:
                    found.wrong.append(f"{name} layer {layer}: no attention, and the block has one")
                continue
            if layer not in said.attention:
                found.wrong.append(f"{name} layer {layer}: attention of a block without reference")
                continue
            off = np.abs(column - said.attention[layer][queries, key[0]]).max()
            found.attention = max(found.attention, float(off) if np.isfinite(off) else float("inf"))
