"""Samples of a store as a replay takes them: where their tokens are, and which vectors of which positions are kept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.sql.views import literal
from actstore.store import Store
from actstore_extract.interventions.conditions import NONE
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.sample import Kept, Vectors
from actstore_extract.roles import RULES, ImageSpan, Layout, Positions, parse_role, positions

__all__ = ["Reader", "Stored", "model_section", "stored", "together"]

NOWHERE = -1
TOGETHER = 1 << 28  # bytes of one layer of the samples that are replayed side by side, and share a block's weights


def model_section(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the recipe in a run card says of its model; ReplayError for a run card that names none."""
    section = (run.get("recipe") or {}).get("model")
    if not isinstance(section, dict) or not {"weights_sha256", "n_layers", "dtype"} <= run.keys():
        raise ReplayError("the run card of this store names no model with its weights, so nothing can be replayed")
    return section


class Reader:
    """Residual streams of a store, read for many samples at a time: of the rows that are expected, a layer is held."""

    def __init__(self, store: Store) -> None:
        model_section(store.run)
        self.store = store
        self.expected = np.empty(0, np.int64)
        self.layer, self.held = NOWHERE, np.empty((0, store.header.d_model), np.float32)

    def expect(self, row_ids: Positions) -> None:
        """These rows will be asked for, layer after layer."""
        self.expected, self.layer = np.unique(row_ids[row_ids != NOWHERE]), NOWHERE

    def residual(self, row_ids: Positions, layer: int) -> Vectors:
        """Vectors (n, d) of rows at one layer."""
        at = np.searchsorted(self.expected, row_ids).clip(max=max(0, len(self.expected) - 1))
        if not len(self.expected) or not (self.expected[at] == row_ids).all():
            return self.store.residual(row_ids, layer)
        if layer != self.layer:
            self.held, self.layer = self.store.residual(self.expected, layer), layer
        found: Vectors = self.held[at]
        return found


@dataclass(frozen=True)
class Stored:
    """One sample, as the model is: `sample` is its row of the view samples; row ids (length,) of what is kept at each
    position, -1 where nothing is; token ids and modalities (length,); positions of the roles by words that are kept."""

    reader: Reader
    sample: dict[str, Any]
    residual_rows: Positions
    kv_rows: Positions
    token_ids: Positions
    modality: NDArray[np.str_]
    words: Mapping[str, Positions]

    @property
    def store(self) -> Store:
        """Where it is kept."""
        return self.reader.store

    @property
    def sample_id(self) -> str:
        """Its name."""
        return str(self.sample["sample_id"])

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.token_ids)

    @cached_property
    def layout(self) -> Layout:
        """Where its tokens are, as far as positions are kept."""
        words = np.flatnonzero(self.modality == "text")
        pictures = self.sample.get("pictures") or [self.sample]  # each by itself, of several
        if any(one["image_start"] is None or one["image_end"] is None for one in pictures):
            return Layout(self.token_ids, text=words, words=self.words)
        spans = tuple(map(self._span, pictures))
        begin, end = int(spans[-1].image[0]), int(spans[-1].image[-1])
        before, after = words[words < begin], words[words > end]
        boi, eoi = spans[0].boi, spans[-1].eoi
        is_emu3 = self.store.run.get("family") == "emu3"  # which alone says how large the image is, and ends its frame
        return Layout(
            self.token_ids,
            image=np.concatenate([span.image for span in spans]),
            eol=np.concatenate([span.eol for span in spans]),
            boi=boi,
            eoi=eoi,
            size=np.arange(boi + 1, begin) if is_emu3 and boi is not None else words[:0],
            text=after if len(after) else before,
            text_before=before,
            special={"frame-end": eoi - 1} if is_emu3 and eoi is not None else {},
            spans=spans,
            words=self.words,
        )

    def _span(self, picture: Mapping[str, Any]) -> ImageSpan:
        """Where a picture is."""
        begin, end, boi, eoi = (picture[name] for name in ("image_start", "image_end", "boi", "eoi"))
        # A line may end behind the last image token: with a token that is one by its id alone (Emu3, LLaVA-OneVision).
        last = end + int(end + 1 < self.length and self.token_ids[end + 1] == self.token_ids[end])
        between = np.arange(begin, last + 1)
        is_special = self.modality[between] == "special"
        # Where no grid is known, what is between image tokens tells tiles apart; by the first rules it ended lines.
        has_lines = picture["grid_rows"] is not None or self.store.run.get(RULES, 1) == 1
        image, eol = between[~is_special], between[is_special] if has_lines else between[:0]
        edges = [at for at in (boi, eoi, begin, last) if at is not None]
        return ImageSpan(np.arange(min(edges), max(edges) + 1), image, eol, boi, eoi, grid=None)

    def at(self, role: str) -> Positions:
        """Positions of a role; none in a sample without it."""
        seed = int(self.store.run.get("seed") or 0)
        found = positions(parse_role(role), self.layout, seed=seed, sample_id=self.sample_id)
        return np.empty(0, np.int64) if found is None else found

    def residual(self, layer: int, at: Positions) -> Vectors:
        """Vectors (n, d) that enter block `layer` at positions."""
        return self.reader.residual(self.residual_rows[at], layer)

    def cached(self, block: int, n: int) -> tuple[Vectors, Vectors]:
        """Keys and values (n, key heads * head width) of the first n positions."""
        rows = self.kv_rows[:n]
        return self.store.keys(rows, block), self.store.values(rows, block)

    def kept(self, *, is_cached: bool) -> Kept:
        """As a replay takes it."""
        return Kept(self.sample_id, self.layout, self.residual, self.cached if is_cached else None)

    def past(self, at: Positions, layers: Sequence[int], n_layers: int) -> tuple[int, bool] | None:
        """How many positions in front of the first of `at` need not run again in replays from `layers` on, and whether
        their keys and values are read rather than made; None where what is kept tells neither."""
        first = int(at[0]) if len(at) else self.length - 1
        blocks = set(range(min(layers), n_layers))
        without = np.flatnonzero(self.kv_rows[:first] == NOWHERE)
        cached = int(without[0]) if len(without) else first
        if cached and blocks <= {*self.store.blocks} and (self.residual_rows[cached:] != NOWHERE).all():
            return cached, True
        return (first, False) if self.is_whole and blocks <= {*self.store.layers} else None

    def needed(self, past: int, *, is_cached: bool) -> Positions:
        """Rows that a replay behind `past` positions reads, again and again."""
        return self.residual_rows[past if is_cached else 0 :]

    @property
    def layer_bytes(self) -> int:
        """What one layer of it takes, as it is read."""
        return 4 * self.length * self.store.header.d_model

    @property
    def is_whole(self) -> bool:
        """Whether every position has its vectors, so that the model's own forward can go on from any layer."""
        return bool((self.residual_rows != NOWHERE).all())


def together(samples: Sequence[Stored]) -> int:
    """How many of these samples go side by side."""
    return max(1, TOGETHER // max(one.layer_bytes for one in samples))


def stored(reader: Reader, sample_ids: Sequence[str]) -> dict[str, Stored]:
    """Samples by id, those that ran as the model is; ReplayError for one that did not."""
    store = reader.store
    chosen = f"condition = '{NONE}' and sample_id in ({', '.join(map(literal, dict.fromkeys(sample_ids)))})"
    samples = store.sql(f"from samples where {chosen} and status = 'ok'")
    rows = store.sql(
        "select row_id, sample_id, role, position, token_id, modality from rows "
        f"where {chosen} and position is not null order by row_id"
    ).partition_by("sample_id", as_dict=True)
    found = {row["sample_id"]: row for row in samples.iter_rows(named=True)}
    for name in sample_ids:
        if name not in found or (name,) not in rows:
            raise ReplayError(f"{store}: nothing is kept of {name} without a condition, so nothing to replay")
    return {name: _one(reader, found[name], rows[name,]) for name in dict.fromkeys(sample_ids)}


def _one(reader: Reader, sample: dict[str, Any], rows: pl.DataFrame) -> Stored:
    length = int(sample["length"])
    at = rows["position"].to_numpy()
    token_ids = np.full(length, NOWHERE, np.int64)
    token_ids[at] = rows["token_id"].fill_null(NOWHERE).to_numpy()
    modality = np.full(length, "", "<U7")
    modality[at] = rows["modality"].fill_null("").to_numpy()
    residual, kv = (_rows(rows, roles, length) for roles in (reader.store.roles, reader.store.kv))
    by_role = rows.filter(pl.col("role").str.contains("^words?-")).partition_by("role", as_dict=True)
    words = {str(role): own["position"].to_numpy().astype(np.int64) for (role,), own in by_role.items()}
    return Stored(reader, sample, residual, kv, token_ids, modality, words)


def _rows(rows: pl.DataFrame, roles: Sequence[str], length: int) -> Positions:
    """Row id (length,) of a row of one of the roles at each position."""
    found = np.full(length, NOWHERE, np.int64)
    own = rows.filter(pl.col("role").is_in(roles))
    found[own["position"].to_numpy()] = own["row_id"].to_numpy()
    return found
