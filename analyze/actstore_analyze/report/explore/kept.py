"""What a page that stands by itself keeps: the answer to all that it may ask for, by path."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import polars as pl

from actstore_analyze.report.explore.features import STRONGEST
from actstore_analyze.report.explore.resources import WORDS, Resources

__all__ = ["STRONGEST", "WORDS", "Choice", "featured", "kept", "samples", "worded"]

LENS_WORK = 10**12  # multiplications, some seconds
MOST_WORDS = 200_000
MOST_FEATURES = 20_000_000  # bytes, of their places in pictures
LEFT_OUT = "left out of this file, for its size or the time that it takes; actstore explore shows it"

Choice = tuple[str, str, str]  # store, role, condition
Layers = Mapping[str, Sequence[int]]  # by store


def kept(
    resources: Resources, choices: Sequence[Choice], layers: Layers, method: str, state: Mapping[str, str]
) -> dict[str, Any]:
    """Of these views at these layers of each store, all if none are said, in one projection.

    state: what is seen first, the SQL that chooses points among it. Raises QueryError where that is wrong.
    """
    found: dict[str, Any] = {}
    described = [
        _described(one, [choice for choice in choices if choice[0] == one["name"]], layers, method)
        for one in resources.described
        if any(title == one["name"] for title, *_ in choices)
    ]
    chosen = {one["name"]: one["layers"] for one in described}
    lens = {title: (points, cells) for title, points, cells in worded(resources, choices, chosen)}
    features = {title: (points, cells) for title, points, cells in featured(resources, choices, chosen)}
    for one in described:
        title, own = one["name"], [choice for choice in choices if choice[0] == one["name"]]
        points, cells = lens.get(title, (0, 0))
        one["lens"] = one["lens"] if points or one["lens"] is not True else LEFT_OUT
        featured_points, places = features.get(title, (0, 0))
        if one["features"] and not featured_points:
            one["features"], one["saes"] = [], LEFT_OUT
        elif one["features"] and not places:
            one["places"] = LEFT_OUT
        for choice in own:
            found.update(_view(resources, choice, one["layers"], method, words=bool(points)))
            found.update(_features(resources, choice, one["features"], cells=bool(places)))
        numbers = samples(resources, own)
        found.update(_samples(resources, title, numbers, one["layers"], words=bool(cells)))
    found["stores"] = described
    if (where := state.get("where")) and (first := _first(choices, state)) is not None:
        path = f"{_base(first)}/where?{_quoted(where)}"
        found[path] = resources.get(path)
    return found


def samples(resources: Resources, choices: Sequence[Choice]) -> list[int]:
    """The samples of the plan that points of these views, of one store, are of."""
    found: set[int] = set()
    for title, role, condition in choices:
        found.update(resources.samples(title, resources.view(title, role, condition)))
    return sorted(found)


def worded(resources: Resources, choices: Sequence[Choice], layers: Layers) -> Iterator[tuple[str, int, int]]:
    """Each store with a lens: of how many points and image tokens of these views a file says words, 0 for too many."""
    for title in dict.fromkeys(title for title, *_ in choices):
        optics = resources.stores[title].header.lens
        if optics is None:
            continue
        own = [choice for choice in choices if choice[0] == title]
        each = resources.stores[title].header.d_model * optics.n_tokens * len(layers[title])
        points = sum(resources.view(*choice).rows.height for choice in own)
        numbers = samples(resources, own)
        cells = sum(_cells(resources, title, numbers).values()) if points * each <= LENS_WORK else 0
        yield (
            title,
            points if points * each <= LENS_WORK and points * WORDS * len(layers[title]) <= MOST_WORDS else 0,
            cells if cells * each <= LENS_WORK and cells * len(layers[title]) <= MOST_WORDS else 0,
        )


def featured(resources: Resources, choices: Sequence[Choice], layers: Layers) -> Iterator[tuple[str, int, int]]:
    """Each store with autoencoders: of how many points of these views a file says features, and how many cells of their
    pictures it says of each, 0 for too many."""
    for title in dict.fromkeys(title for title, *_ in choices):
        store, own = resources.stores[title], [choice for choice in choices if choice[0] == title]
        n = len([layer for layer in resources.features.layers(store) if layer in layers[title]])
        if not n:
            continue
        each, cells = store.header.d_model * resources.features.width(store) * n, 0
        points = sum(resources.view(*choice).rows.height for choice in own)
        if points * each > LENS_WORK:
            yield title, 0, 0
            continue
        grids = _cells(resources, title, samples(resources, own))
        if sum(grids.values()) * each * len(own) <= LENS_WORK:
            at = [resources.samples(title, resources.view(*choice)) for choice in own]
            cells = sum(grids.get(number, 0) for one in at for number in one)
        yield title, points, cells if cells * STRONGEST * n <= MOST_FEATURES else 0


def _described(one: Mapping[str, Any], choices: Sequence[Choice], layers: Layers, method: str) -> dict[str, Any]:
    """What there is to choose from in the file."""
    return {
        **one,
        "path": "",
        "views": [[role, condition] for _, role, condition in choices],
        "roles": list(dict.fromkeys(role for _, role, _ in choices)),
        "conditions": list(dict.fromkeys(condition for *_, condition in choices)),
        "layers": [layer for layer in one["layers"] if layer in (layers.get(one["name"]) or one["layers"])],
        "methods": [method],
        "features": [layer for layer in one["features"] if layer in (layers.get(one["name"]) or one["layers"])],
    }


def _view(
    resources: Resources, choice: Choice, layers: Sequence[int], method: str, *, words: bool
) -> Iterator[tuple[str, Any]]:
    base, view = _base(choice), resources.view(*choice)
    yield f"{base}/table", (table := resources.get(f"{base}/table"))
    for layer in layers:
        yield f"{base}/{method}/{layer}/xy", _text(resources.get(f"{base}/{method}/{layer}/xy"))
        yield f"{base}/{method}/{layer}/share", resources.get(f"{base}/{method}/{layer}/share")
        yield f"{base}/near/{layer}", _text(resources.get(f"{base}/near/{layer}"))
        if table["clusters"]:
            yield f"{base}/clusters/{layer}", resources.get(f"{base}/clusters/{layer}")
        if words:
            for i, said in enumerate(resources.lens(view, layer, range(view.rows.height))):
                yield f"{base}/lens/{layer}/{i}", said


def _features(resources: Resources, choice: Choice, layers: Sequence[int], *, cells: bool) -> Iterator[tuple[str, Any]]:
    base, view = _base(choice), resources.view(*choice)
    for layer in layers:
        for i, said in enumerate(resources.features.strongest(view, layer, range(view.rows.height), cells=cells)):
            yield f"{base}/features/{layer}/{i}", said


def _samples(
    resources: Resources, title: str, numbers: Sequence[int], layers: Sequence[int], *, words: bool
) -> Iterator[tuple[str, Any]]:
    store, pictures = _quoted(title), set()
    every, path = resources.layers(title), str(resources.stores[title])
    for number in numbers:
        one = resources.sample(title, number)
        for picture in one["pictures"]:
            _thinned(picture["heat"], every, layers)
            if picture["at"] is not None:
                pictures.add(picture["at"])
        one["words"] = one["words"] and words
        one["missing"] = {name: how.replace(path, "STORE") for name, how in one["missing"].items()}  # nobody's folders
        yield f"{store}/sample/{number}", one
    for at in sorted(pictures):
        yield f"{store}/picture/{at}", _text(resources.get(f"{store}/picture/{at}"))
    if words:
        for layer in layers:
            for number, said in resources.all_words(title, layer, numbers):
                yield f"{store}/words/{layer}/{number}", said


def _cells(resources: Resources, title: str, numbers: Sequence[int]) -> dict[int, int]:
    """How many image tokens each of these samples keeps."""
    rows = resources.image_rows(title, numbers)
    return dict(rows.group_by("at").agg(pl.len()).iter_rows())


def _first(choices: Sequence[Choice], state: Mapping[str, str]) -> Choice | None:
    """The view that a state begins with."""
    return next((one for one in choices if one == tuple(map(state.get, ("store", "role", "condition")))), None)


def _thinned(heat: dict[str, Any] | None, every: Sequence[int], layers: Sequence[int]) -> None:
    """Leave the attention at these layers alone; in the same order as the layers of the page."""
    if heat is not None:
        heat["layers"] = [one for layer, one in zip(every, heat["layers"], strict=True) if layer in layers]


def _base(choice: Choice) -> str:
    return "/".join(map(_quoted, choice))


def _quoted(text: str) -> str:
    """As encodeURIComponent of a browser has it."""
    return quote(text, safe="!'()*")


def _text(data: bytes) -> str:
    return b64encode(data).decode()
