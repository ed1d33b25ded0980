"""A sample: all that a store keeps of it, and which key of a recipe keeps what is missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError, nearest
from actstore.read.parts import Part
from actstore.read.tokens import as_read
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.report.explore.pictures import NONE, Thumbnails, image_names, places_of, why_beside
from actstore_analyze.report.explore.words import likeliest

__all__ = ["KEPT_BY", "Grid", "Heat", "Picture", "Sample", "Token", "sample", "with_pictures"]

MOST_POSITIONS = 40  # columns of the lens' grid
NO_CONDITION = "none"
KEPT_BY = {
    "tokens": 'capture.roles = ["all"]',
    "attention": "capture.mass = true",
    "lens": "capture.lens = true",
    "said": "capture.next_token = true",
    "text": "capture.max_new_tokens = 20",
}
NOT_SHOWN = {"batch", "sample_id", "condition", "status", "error", "image", "prompt"}

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Token:
    """A token of the prompt whose vector is kept, the roles it has, and what it is of: text or image."""

    position: int
    text: str | None
    roles: tuple[str, ...]
    modality: str | None


@dataclass(frozen=True)
class Heat:
    """Attention (layers, rows, columns) of the text to each cell of a picture, NaN at a layer that nothing reads.

    beside: why the grid cannot be drawn on the picture, where it cannot.
    """

    values: Floats
    beside: str | None


@dataclass(frozen=True)
class Picture:
    """A picture of the sample: its name, its bytes (WebP) where they are kept, the attention on it where it is, and the
    positions of its cells, row after row, where they are known."""

    name: str
    webp: bytes | None
    heat: Heat | None
    positions: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Grid:
    """The logit lens (layers, positions): the likeliest next token at each, and its probability [0, 1]."""

    positions: tuple[int, ...]
    tokens: list[list[str]]
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """What a store keeps of one sample under a condition.

    columns: its own; said: the likeliest next tokens with their probabilities; text: what was generated; missing: by
    section, what is not kept and the key of a recipe that keeps it.
    """

    store: Path
    model: str
    sample_id: str
    condition: str
    layers: tuple[int, ...]
    error: str | None
    length: int | None
    prompt: str | None
    columns: dict[str, Any]
    said: list[tuple[str, float]]
    text: str | None
    tokens: list[Token]
    pictures: list[Picture]
    lens: Grid | None
    missing: dict[str, str]

    @property
    def title(self) -> str:
        """The sample, and its condition where it is not the model as it is."""
        return self.sample_id + ("" if self.condition == NO_CONDITION else f" under {self.condition}")


def sample(store: Store, sample_id: str, condition: str = NO_CONDITION) -> Sample:
    """All that the store keeps of a sample; ActstoreError, with the nearest there is, for one that it has not."""
    row = _row(store, sample_id, condition)
    plan = store.plan.filter((pl.col("sample_id") == sample_id) & (pl.col("condition") == condition)).row(0, named=True)
    where = f"sample_id = {literal(sample_id)} and condition = {literal(condition)}"
    rows = store.sql(f"select * from rows where {where} order by position, row_id")
    image = rows.filter((pl.col("role") == "image") & pl.col("position").is_not_null())["position"].to_list()
    return with_pictures(store, Thumbnails(store), row, plan, image, _tokens(store, rows), _lens(store, rows))


def with_pictures(
    store: Store,
    thumbnails: Thumbnails,
    row: Mapping[str, Any],
    plan: Mapping[str, Any],
    image: Sequence[int],
    tokens: list[Token] | None = None,
    lens: Grid | None = None,
) -> Sample:
    """A sample from its row of samples, its row of the plan and the positions of role `image`, as far as it is kept."""
    pictures, unseen = _pictures(store, thumbnails, row, plan, image)
    said = list(zip(row["top_tokens"] or [], map(float, row["top_probabilities"] or []), strict=True))
    return Sample(
        store=Path(store.place),
        model=str(store.run.get("model") or ""),
        sample_id=row["sample_id"],
        condition=row["condition"],
        layers=store.layers,
        error=row["error"],
        length=row["length"],
        prompt=plan.get("prompt"),
        columns={name: value for name, value in plan.items() if name not in NOT_SHOWN and value is not None},
        said=said,
        text=row["generated_text"],
        tokens=tokens or [],
        pictures=pictures,
        lens=lens,
        missing=dict(_missing(row, tokens or [], lens, said, unseen)),
    )


def _row(store: Store, sample_id: str, condition: str) -> dict[str, Any]:
    """The sample's row of samples."""
    found = store.sql(
        f"select * from samples where sample_id = {literal(sample_id)} and condition = {literal(condition)}"
    )
    if found.height:
        return found.row(0, named=True)
    planned = store.plan
    names = planned["sample_id"].unique().to_list()
    if sample_id not in names:
        raise ActstoreError(f"{store} has no sample '{sample_id}'{nearest(sample_id, names)}")
    of_it = planned.filter(pl.col("sample_id") == sample_id)["condition"].to_list()
    if condition not in of_it:
        hint = nearest(condition, of_it, f"it was under: {', '.join(of_it)}")
        raise ActstoreError(f"sample '{sample_id}' was not run under '{condition}'{hint}")
    raise ActstoreError(f"sample '{sample_id}' is planned and not done: go on with actstore extract")


def _tokens(store: Store, rows: pl.DataFrame) -> list[Token]:
    """The tokens whose vectors are kept, by position; a mean has none."""
    placed = rows.filter(pl.col("position").is_not_null()).join(store.vocabulary, on="token_id", how="left")
    words = as_read(placed["token"], store.vocabulary["token"])
    grouped = placed.with_columns(word=words).group_by("position", maintain_order=True).agg("role", "word", "modality")
    return [
        Token(position, word[0], tuple(dict.fromkeys(roles)), modality[0])
        for position, roles, word, modality in grouped.select("position", "role", "word", "modality").iter_rows()
    ]


def _lens(store: Store, rows: pl.DataFrame) -> Grid | None:
    """The lens at the sample's positions; of many those that are no plain image token, and the first of the others."""
    kept = rows.filter(pl.col("position").is_not_null() & pl.col("role").is_in(store.roles)).unique("position")
    plain = kept.with_columns(image=(pl.col("modality") == "image").fill_null(value=False))
    if store.layers[0] < store.header.image_from:  # where the image's positions hold nothing
        plain = plain.filter(~pl.col("image"))
    if store.header.lens is None or not plain.height:
        return None
    chosen = plain.sort("image", "position").head(MOST_POSITIONS).sort("position")
    vectors = store.residual(chosen, layers=store.layers).swapaxes(0, 1)
    said = likeliest(store, vectors.reshape(-1, vectors.shape[-1]), 1)
    n = chosen.height
    return Grid(
        positions=tuple(chosen["position"].to_list()),
        tokens=[[word for ((word, _),) in said[i * n : (i + 1) * n]] for i in range(len(store.layers))],
        probabilities=np.array([p for ((_, p),) in said]).reshape(len(store.layers), n),
    )


def _pictures(
    store: Store, kept: Thumbnails, row: Mapping[str, Any], plan: Mapping[str, Any], image: Sequence[int]
) -> tuple[list[Picture], dict[str, str]]:
    """The sample's pictures with the attention on them, and what of that is not kept."""
    names = image_names(plan.get("image"))
    if not names:
        return [], {}
    small, missing = kept.webp(names), {}
    if not small:
        missing["pictures"] = NONE.replace("STORE", str(store))
    places = places_of(row, image or None)
    mass = _attention(store, plan) if row["status"] == "ok" else None
    if mass is None:
        missing["attention"] = KEPT_BY["attention"]
    elif None in places or len(places) != len(names):
        missing["attention"] = (
            'its tokens are no grid, or it is not known which they are: capture.roles with "image" keeps them'
        )
    heats: list[Heat | None] = [None] * len(names)
    if mass is not None and "attention" not in missing:
        for i, (name, place) in enumerate(zip(names, places, strict=True)):
            assert place is not None
            values = mass[:, place.positions].reshape(len(mass), *place.grid)
            size = kept.sizes.get(name)
            heats[i] = Heat(values, None if size is None else why_beside(size, place.grid, store.run))
    cells = [None if place is None else place.positions for place in places]
    cells += [None] * (len(names) - len(cells))
    return [
        Picture(name, small.get(name), heat, own) for name, heat, own in zip(names, heats, cells, strict=False)
    ], missing


def _attention(store: Store, plan: Mapping[str, Any]) -> Floats | None:
    """What the text of a sample pays to each position (layers, keys): the mean over heads, summed over text positions.

    None where no mass is kept for it.
    """
    part = next((one for one in store.parts if plan["batch"] in one.commit.batches), None)
    if part is None or "attention/mass" not in part.commit.arrays:
        return None
    places, mass = _mass(part)
    found: Floats = mass[:, places[plan["sample_id"], plan["condition"]]]
    return found


@lru_cache(maxsize=2)  # whoever looks at a sample looks at others of its part
def _mass(part: Part) -> tuple[dict[tuple[str, str], int], Floats]:
    """Where each sample of a part is, and the attention (layers, samples, keys)."""
    keys = part.samples().select("sample_id", "condition").iter_rows()
    n_layers = part.commit.arrays["attention/mass"].shape[0]
    return {key: i for i, key in enumerate(keys)}, part.array("attention/mass").layers(range(n_layers))


def _missing(
    row: Mapping[str, Any],
    tokens: Sequence[Token],
    lens: Grid | None,
    said: Sequence[tuple[str, float]],
    unseen: Mapping[str, str],
) -> Iterator[tuple[str, str]]:
    """What a page of the sample cannot show, by section, with what keeps it."""
    yield from unseen.items()
    if row["status"] != "ok":
        return
    if len(tokens) < (row["length"] or 0):
        yield "tokens", f"{len(tokens)} of {row['length']} positions are kept; {KEPT_BY['tokens']} keeps all"
    if lens is None:
        yield "lens", KEPT_BY["lens"]
    if not said:
        yield "said", KEPT_BY["said"]
    if row["generated_text"] is None:
        yield "text", KEPT_BY["text"]
