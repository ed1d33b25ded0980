"""Resources: what the explorer's page asks for by path. A server and a saved page answer the same paths.

stores                              JSON: names, models, views (role and condition), layers, depth, projections
STORE/sample/I                      JSON: a sample of the plan: columns, what was said, pictures with their attention
STORE/picture/I                     WebP
STORE/words/LAYER/I                 JSON: by the logit lens, the likeliest word at each image token of a sample
STORE/ROLE/CONDITION/table          JSON: of each point its sample, and the columns it can be coloured by
STORE/ROLE/CONDITION/where?SQL      JSON: the points that SQL chooses
STORE/ROLE/CONDITION/METHOD/LAYER/xy        float32 (n, 2)
STORE/ROLE/CONDITION/METHOD/LAYER/share     JSON: of the variance, null where none is said
STORE/ROLE/CONDITION/near/LAYER/I           JSON: nearest points in the full space, and their distances
STORE/ROLE/CONDITION/near/LAYER             uint32 (n, k): those of all points, for a saved page
STORE/ROLE/CONDITION/clusters/LAYER         JSON: the clusters at a layer, as a column to colour by
STORE/ROLE/CONDITION/lens/LAYER/I           JSON: by the logit lens, the likeliest words at a point
STORE/ROLE/CONDITION/features/LAYER/I       JSON: the strongest SAE features, and where in the image they are active
"""

import re
import threading
from base64 import b64encode
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from urllib.parse import unquote

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.report.explore import projection
from actstore_analyze.report.explore.features import Features
from actstore_analyze.report.explore.peaks import MOST_CLUSTERED, clustered
from actstore_analyze.report.explore.pictures import image_names
from actstore_analyze.report.explore.records import Records
from actstore_analyze.report.explore.sample import KEPT_BY, Sample
from actstore_analyze.report.explore.view import View
from actstore_analyze.report.explore.words import likeliest
from actstore_analyze.sae.source import Source
from actstore_analyze.study.selection import counted
from actstore_analyze.study.study import n_layers
from actstore_analyze.study.subjects import subjects

__all__ = ["WORDS", "MissingError", "Resources"]

WORDS = 5  # of the lens at a point
FEW = 100  # samples, that SQL names one by one


class MissingError(ActstoreError):
    """No resource is called so."""


class Resources:
    """What a page may ask of some stores; answers come one after the other, whoever asks."""

    def __init__(
        self,
        stores: Sequence[Store],
        query: str = "from rows",
        *,
        roles: Sequence[str] = (),
        saes: Source | None = None,
        most: int = 100_000,
    ) -> None:
        self.stores = {subject.title: subject.store for subject in subjects(stores)}
        self.query, self.roles, self.features, self.most = query, roles, Features(saes), most
        self._views: dict[tuple[str, str, str], View] = {}
        self._one_by_one = threading.RLock()
        chosen = 0
        for store in stores:  # what is wrong is said now, not in the page
            chosen += store.sql(f"select row_id from (\n{query}\n) limit 1").height
            if lost := [role for role in roles if role not in store.roles]:
                raise ActstoreError(f"{store} has no role '{lost[0]}'; it has {', '.join(store.roles)}")
        if not chosen:
            raise ActstoreError(f"the query chooses no rows: {query}")

    def get(self, path: str) -> Any:
        """Bytes, or what JSON holds; MissingError for a path of none, ActstoreError for what cannot be answered."""
        with self._one_by_one:
            if path == "stores":
                return self.described
            first, *rest = path.split("/", 1)
            title = unquote(first)
            if title not in self.stores or not rest:
                raise MissingError(path)
            return self._of_store(title, rest[0])

    @cached_property
    def described(self) -> list[dict[str, Any]]:
        """What there is to choose from."""
        return [self._described(title, store, self._views_of(store)) for title, store in self.stores.items()]

    def _described(self, title: str, store: Store, views: list[tuple[str, str]]) -> dict[str, Any]:
        return {
            "name": title,
            "path": str(store),
            "model": str(store.run.get("model") or ""),
            "views": [list(view) for view in views],
            "roles": list(dict.fromkeys(role for role, _ in views)),
            "conditions": sorted({condition for _, condition in views}, key=lambda name: (name != "none", name)),
            "layers": _whole(store),
            "columns": store.sql("from rows limit 0").columns,
            "depth": n_layers(store),
            "width": store.header.d_model,
            "methods": projection.methods(),
            "features": self.features.layers(store),
            "saes": self.features.said(store),
            "other_model": self.features.other_model(store),
            "lens": f"not kept: {KEPT_BY['lens']}" if store.header.lens is None else True,
            "pictures": bool(self.records[title].thumbnails.sizes),
        }

    def _views_of(self, store: Store) -> list[tuple[str, str]]:
        """Role and condition of the query's rows, in the order of the store's roles, the model as it is first."""
        found = store.sql(
            f"select distinct role, condition from rows where row_id in (select row_id from (\n{self.query}\n)) "
            "order by condition = 'none' desc, condition"
        )
        return [
            (role, condition)
            for role in self.roles or store.roles
            for own, condition in found.iter_rows()
            if own == role and role in store.roles
        ]

    @cached_property
    def records(self) -> dict[str, Records]:
        """The samples of each store, and their pictures."""
        return {title: Records(store) for title, store in self.stores.items()}

    def view(self, title: str, role: str, condition: str) -> View:
        """The points of a role of a store under a condition."""
        store = self.stores[title]
        if role not in store.roles:
            raise MissingError(f"{title}/{role}")
        key = title, role, condition
        if key not in self._views:
            self._views[key] = View(store, role, condition, self.query, self.most)
        return self._views[key]

    def layers(self, title: str, wanted: Sequence[int] | None = None) -> list[int]:
        """Those of a store that are wanted, all if none are said; ActstoreError for one that it has not."""
        kept, wanted = _whole(self.stores[title]), counted(self.stores[title], wanted)
        if wanted is not None and (lost := [layer for layer in wanted if layer not in kept]):
            raise ActstoreError(f"{title} has no layer {lost[0]}; it has {', '.join(map(str, kept))}")
        return sorted({*(kept if wanted is None else wanted)})

    def _of_store(self, title: str, rest: str) -> Any:
        store = self.stores[title]
        kind, _, number = rest.partition("/")
        if kind == "sample" and number.isdecimal() and int(number) < store.plan.height:
            return self.sample(title, int(number))
        if kind == "picture" and number.isdecimal():
            return self.picture(title, int(number))
        if kind == "words" and (asked := re.fullmatch(r"(\d+)/(\d+)", number)):
            return self.words(title, int(asked[1]), int(asked[2]))
        role, _, more = rest.partition("/")
        condition, _, what = more.partition("/")
        return self._of_view(title, self.view(title, unquote(role), unquote(condition)), what)

    def _of_view(self, title: str, view: View, what: str) -> Any:
        if what == "table":
            return self.table(title, view)
        if what.startswith("where?"):
            return view.where(unquote(what.removeprefix("where?"))).tolist()
        match what.split("/"):
            case ["near", layer] if self._has(view, layer):
                return view.all_near(int(layer))[0].astype("<u4").tobytes()
            case ["near", layer, point] if self._has(view, layer, point):
                indices, distances = view.near(int(layer), int(point))
                return {"indices": indices.tolist(), "distances": np.round(distances, 4).tolist()}
            case ["clusters", layer] if self._has(view, layer) and view.rows.height <= MOST_CLUSTERED:
                return clustered(view, int(layer))
            case ["lens", layer, point] if self._has(view, layer, point):
                return self.lens(view, int(layer), [int(point)])[0]
            case ["features", layer, point] if self._has(view, layer, point):
                return self.features.strongest(view, int(layer), [int(point)])[0]
            case [method, layer, "xy"] if method in projection.METHODS and self._has(view, layer):
                return view.plane(method, int(layer)).xy.astype("<f4").tobytes()
            case [method, layer, "share"] if method in projection.METHODS and self._has(view, layer):
                share = view.plane(method, int(layer)).share
                return None if np.isnan(share) else round(share, 6)
        raise MissingError(what)

    @staticmethod
    def _has(view: View, layer: str, point: str = "0") -> bool:
        """Whether a layer and a point are there."""
        if not (layer.isdecimal() and point.isdecimal()):
            return False
        return int(layer) in view.layers and int(point) < view.rows.height

    def names(self, title: str) -> list[str]:
        """The names of a store's pictures that are kept, in an order that stays."""
        return list(self.records[title].thumbnails.sizes)

    def picture(self, title: str, number: int) -> bytes:
        """A picture by its number among those that are kept."""
        names = self.names(title)
        if number >= len(names):
            raise MissingError(f"{title}/picture/{number}")
        return self.records[title].thumbnails.webp([names[number]])[names[number]]

    def samples(self, title: str, view: View) -> list[int]:
        """The number in the plan of each point's sample."""
        keys = ["sample_id", "condition"]
        joined = view.rows.select(keys).join(self.records[title].numbers, on=keys, how="left", maintain_order="left")
        return joined["at"].to_list()

    def table(self, title: str, view: View) -> dict[str, Any]:
        """Of each point its row, its sample and its picture, and the columns that it can be coloured by."""
        at = {name: i for i, name in enumerate(self.names(title))}
        rows = view.rows
        images = rows["image"].to_list() if "image" in rows.columns else [None] * rows.height
        return {
            "n": rows.height,
            "of": view.of,
            "row_id": [[row_id >> 32, row_id & 0xFFFFFFFF] for row_id in rows["row_id"]],
            "sample": self.samples(title, view),
            "sample_id": rows["sample_id"].to_list(),
            "picture": [next((at[one] for one in image_names(value) if one in at), None) for value in images],
            "position": rows["position"].to_list(),
            "columns": view.columns,
            "label": view.label,
            "clusters": rows.height <= MOST_CLUSTERED,
        }

    def sample(self, title: str, number: int) -> dict[str, Any]:
        """A sample of the plan as the card of a point shows it."""
        found = self.records[title].sample(number)
        at = {name: i for i, name in enumerate(self.names(title))}
        return {
            "sample_id": found.sample_id,
            "condition": found.condition,
            "prompt": found.prompt,
            "columns": {name: _plain(value) for name, value in found.columns.items()},
            "said": [[word, round(p, 4)] for word, p in found.said],
            "text": found.text,
            "pictures": [
                {"name": one.name, "at": at.get(one.name), "heat": _heat(found, i, _whole(self.stores[title]))}
                for i, one in enumerate(found.pictures)
            ],
            "words": self._worded(self.stores[title]) and len(found.pictures) == 1,
            "missing": {
                name: found.missing[name] for name in ("pictures", "attention", "said") if name in found.missing
            },
        }

    @staticmethod
    def lens(view: View, layer: int, points: Sequence[int]) -> list[list[tuple[str, float]]]:
        """The likeliest words at some points, with their probabilities."""
        return _rounded(likeliest(view.store, view.vectors(layer)[list(points)], WORDS))

    @staticmethod
    def _worded(store: Store) -> bool:
        return store.header.lens is not None and "image" in store.roles

    def image_rows(self, title: str, numbers: Sequence[int]) -> pl.DataFrame:
        """The rows of the image tokens of some samples of the plan, with the number of each sample, `at`."""
        store, keys = self.stores[title], ["sample_id", "condition"]
        if "image" not in store.roles:
            return pl.DataFrame(schema={"row_id": pl.Int64, "at": pl.UInt32})
        wanted = self.records[title].numbers.filter(pl.col("at").is_in(numbers))
        few = f" and sample_id in ({', '.join(map(literal, wanted['sample_id']))})" if len(numbers) < FEW else ""
        rows = store.sql(f"select row_id, sample_id, condition, k from rows where role = 'image'{few}")
        return rows.join(wanted, on=keys, how="inner").sort("at", "k").select("row_id", "at")

    def all_words(self, title: str, layer: int, numbers: Sequence[int]) -> list[tuple[int, list[tuple[str, float]]]]:
        """Of samples of the plan that keep image tokens, the likeliest word at each, with its probability."""
        store, rows = self.stores[title], self.image_rows(title, numbers)
        if not (self._worded(store) and rows.height):
            return []
        said = [each for (each,) in _rounded(likeliest(store, store.residual(rows, layer), 1))]
        found: dict[int, list[tuple[str, float]]] = {}
        for at, one in zip(rows["at"], said, strict=True):
            found.setdefault(at, []).append(one)
        return list(found.items())

    def words(self, title: str, layer: int, number: int) -> list[tuple[str, float]]:
        """The same of one; MissingError for a layer or a sample that is not there."""
        if layer not in _whole(self.stores[title]) or number >= self.stores[title].plan.height:
            raise MissingError(f"{title}/words/{layer}/{number}")
        return dict(self.all_words(title, layer, [number])).get(number, [])


def _rounded(said: list[list[tuple[str, float]]]) -> list[list[tuple[str, float]]]:
    return [[(word, round(p, 4)) for word, p in one] for one in said]


def _whole(store: Store) -> list[int]:
    """The layers at which every role holds something: those before a model takes the image in are left out."""
    return [layer for layer in store.layers if layer >= store.header.image_from] or list(store.layers)


def _heat(found: Sample, number: int, chosen: Sequence[int]) -> dict[str, Any] | None:
    """The attention on a picture at these layers, in bytes from its least to its largest; null at one that nothing
    reads."""
    heat = found.pictures[number].heat
    if heat is None:
        return None
    layers: list[dict[str, object] | None] = []
    for layer, values in zip(found.layers, heat.values, strict=True):
        if layer not in chosen:
            continue
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            layers.append(None)
            continue
        cells = np.rint((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
        layers.append({"low": round(low, 5), "high": round(high, 5), "cells": b64encode(cells.tobytes()).decode()})
    return {
        "grid": list(heat.values.shape[1:]),
        "beside": heat.beside,
        "layers": layers,
        "first": _first(found, number),
    }


def _first(found: Sample, number: int) -> int | None:
    """The position of the picture's first cell, where its cells follow each other."""
    positions = found.pictures[number].positions
    if positions is None or len(positions) == 0 or (np.diff(positions) != 1).any():
        return None
    return int(positions[0])


def _plain(value: Any) -> Any:
    """A value of a column as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    return str(value.to_list() if isinstance(value, pl.Series) else value)
