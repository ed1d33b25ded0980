"""Samples of a report: where the model is sure and where it is not, where it fails, and what interventions change."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from actstore.store import Store
from actstore_analyze.report.explore.pictures import Thumbnails, image_names
from actstore_analyze.study import said
from actstore_analyze.study.conditions import specs
from actstore_analyze.study.subjects import Subject

__all__ = ["Card", "Row", "rows"]

SHOWN = 6  # samples of a row
PROMPT = 90  # characters of a prompt that stands for a picture


@dataclass(frozen=True)
class Card:
    """One sample: its picture as the address of its bytes, or its prompt; what was said, and what to know of it."""

    sample_id: str
    picture: str | None
    prompt: str
    said: str
    note: str


@dataclass(frozen=True)
class Row:
    """Some samples of a store that have something in common, and how many there are."""

    store: str
    title: str
    cards: list[Card]


def rows(subjects: Sequence[Subject]) -> list[Row]:
    """What is worth looking at of each store that kept what its model said."""
    kept = {subject.title: Thumbnails(subject.store) for subject in subjects}
    return [row for subject in subjects for row in _of(subject, _Pictures(subject, subjects, kept))]


class _Pictures:
    """The pictures of a store, or of one on this page that has the same samples and keeps them."""

    def __init__(self, subject: Subject, subjects: Sequence[Subject], kept: Mapping[str, Thumbnails]) -> None:
        alike = [subject, *(one for one in subjects if _source(one.store) == _source(subject.store) is not None)]
        self._kept = next((kept[one.title] for one in alike if kept[one.title].result is not None), None)

    def address(self, image: object) -> str | None:
        names = image_names(image)
        found = self._kept.webp(names) if self._kept is not None else {}
        webp = next((found[name] for name in names if name in found), None)
        return None if webp is None else f"data:image/webp;base64,{b64encode(webp).decode()}"


def _source(store: Store) -> dict[str, Any] | None:
    """Where the samples of a store are from, whichever of them it took; None where that is not known."""
    recipe = store.run.get("recipe")
    samples = recipe.get("samples") if isinstance(recipe, dict) else None
    if not isinstance(samples, dict):
        return None
    return {name: value for name, value in samples.items() if name not in ("limit", "shuffle", "split")}


def _of(subject: Subject, pictures: _Pictures) -> Iterator[Row]:
    if specs(subject.store):
        yield from _changed(subject, pictures)
    else:
        yield from _said(subject, pictures)
    failed = subject.store.sql(f"select sample_id, error, {_own(subject.store)} from samples where status = 'failed'")
    if failed.height:
        ordered = failed.sort("sample_id").unique("sample_id", keep="first", maintain_order=True)
        cards = [_card(row, pictures, "failed", str(row["error"])) for row in _rows(ordered)]
        yield Row(subject.title, f"failed ({ordered.height:,})", cards)


def _said(subject: Subject, pictures: _Pictures) -> Iterator[Row]:
    told = said.samples(subject.store).sort("sure", "sample_id", descending=[True, False], nulls_last=True)
    known = told.drop_nulls("sure")
    surest = ", and the surest" if known.height else ""
    wrong, right = told.filter(~pl.col("is_right")), told.filter("is_right")
    groups = {
        f"wrong{surest} (of {wrong.height:,} that are wrong)": wrong,
        f"right{surest} (of {right.height:,} that are right)": right,
        "surest": known if told["is_right"].null_count() else known.clear(),
        "least sure": known.sort("sure", "sample_id"),
    }
    for title, group in groups.items():
        cards = [_card(row, pictures, _said_so(row), _truth(row)) for row in _rows(group)]
        if cards:
            yield Row(subject.title, title, cards)


def _said_so(row: Mapping[str, Any]) -> str:
    return _quoted(row["next_token"]) + ("" if row["sure"] is None else f" {row['sure']:.2f}")


def _truth(row: Mapping[str, Any]) -> str:
    return "" if row["is_right"] in (True, None) else f"not {_quoted(row['truth'])}"


def _changed(subject: Subject, pictures: _Pictures) -> Iterator[Row]:
    """The condition under which most samples say something else than without, and those that do so the surest."""
    found = subject.store.sql(
        "select c.*, n.next_token as before from "
        f"(select sample_id, condition, next_token, next_token_probability as sure, {_own(subject.store)} from samples "
        "where condition <> 'none' and next_token is not null) c join samples n "
        "on n.sample_id = c.sample_id and n.condition = 'none' and n.next_token is not null"
    ).sort("condition", "sure", "sample_id", descending=[False, True, False])
    other = pl.col("next_token") != pl.col("before")
    shares = found.group_by("condition", maintain_order=True).agg(pl.len().alias("n"), other.sum().alias("other"))
    most = shares.filter(pl.col("other") > 0).sort(pl.col("other") / pl.col("n"), descending=True, maintain_order=True)
    if not most.height:
        return
    condition, n, changed = most.row(0)
    cards = [
        _card(row, pictures, f"{_quoted(row['before'])} → {_quoted(row['next_token'])}", f"{row['sure'] or 0:.2f}")
        for row in _rows(found.filter(pl.col("condition") == condition, other))
    ]
    yield Row(subject.title, f"moved most by {condition}: {changed:,} of {n:,} say something else", cards)


def _own(store: Store) -> str:
    """The columns of a sample's picture and prompt, NULL in a store without them."""
    return ", ".join(one if one in store.plan.columns else f"null::varchar as {one}" for one in ("image", "prompt"))


def _quoted(token: str) -> str:
    return f"“{token.strip(said.SPACES)}”"


def _card(row: Mapping[str, Any], pictures: _Pictures, text: str, note: str) -> Card:
    prompt = str(row["prompt"] or "")
    short = prompt if len(prompt) <= PROMPT else f"…{prompt[-PROMPT:]}"
    return Card(row["sample_id"], pictures.address(row["image"]), short, text, note)


def _rows(table: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Those that are shown."""
    return table.head(SHOWN).iter_rows(named=True)
