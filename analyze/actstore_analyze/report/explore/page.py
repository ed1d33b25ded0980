"""The explorer's page: files that a server sends, or one file that holds all it may ask for."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore_analyze.report.explore.resources import Resources
from actstore_analyze.report.explore.view import NEAREST

__all__ = ["FILES", "Choice", "checked", "choices", "estimate", "framed", "saved", "static"]

FILES = {
    "explore.html": "text/html; charset=utf-8",
    "explore.css": "text/css; charset=utf-8",
    "explore.js": "text/javascript; charset=utf-8",
    "card.js": "text/javascript; charset=utf-8",
    "vendor/regl-scatterplot.min.js": "text/javascript; charset=utf-8",
}
# regl makes draw functions of text; a page by itself asks nobody for anything.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
POINT_BYTES = 90  # of its row of the table
MOST_BYTES = 200_000_000
SAMPLE_BYTES = 700  # of JSON, beside its attention

Choice = tuple[str, str, str]  # store, role, condition


@cache
def static(name: str) -> str:
    """A file of the page."""
    return (files("actstore_analyze.report.explore") / "static" / name).read_text(encoding="utf-8")


def checked(path: Path) -> Path:
    """The path of a page; ActstoreError for another suffix."""
    if suffix_of(path) != ".html":
        raise ActstoreError(f"{path}: the page is one .html file")
    return path


def choices(resources: Resources) -> list[Choice]:
    """Every view that has points."""
    return [
        (one["name"], role, condition)
        for one in resources.described
        for role in one["roles"]
        for condition in one["conditions"]
        if resources.has(one["name"], role, condition)
    ]


def framed(page: str, height: int, allowed: str = "") -> str:
    """A page in a frame of its own, as a notebook shows it."""
    style = f"width:100%;height:{height}px;border:1px solid #ccc"
    return f'<iframe sandbox="{allowed}" style="{style}" srcdoc="{escape(page)}"></iframe>'


def estimate(resources: Resources, choices: Sequence[Choice], layers: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Bytes of a saved page, roughly, by what they are for."""
    points = sum(
        resources.view(*choice).rows.height * (len(layers[choice[0]]) * (8 + 4 * NEAREST) * 4 // 3 + POINT_BYTES)
        for choice in choices
    )
    samples, attention = 0, 0
    for title in dict.fromkeys(title for title, *_ in choices):
        numbers = _samples(resources, [one for one in choices if one[0] == title])
        first = resources.sample(title, numbers[0])
        heats = [picture["heat"] for picture in first["pictures"] if picture["heat"]]
        cells = sum(heat["grid"][0] * heat["grid"][1] for heat in heats) * len(layers[title])
        samples += len(numbers) * SAMPLE_BYTES
        attention += len(numbers) * cells * 4 // 3
    pictures = sum(
        len(webp) * 4 // 3
        for title in dict.fromkeys(title for title, *_ in choices)
        for webp in resources.records[title].thumbnails.webp(resources.names(title)).values()
    )
    return {"points": points, "samples": samples, "attention": attention, "pictures": pictures}


def saved(
    resources: Resources,
    choices: Sequence[Choice],
    *,
    layers: Mapping[str, Sequence[int]] | None = None,
    method: str = "pca",
    state: Mapping[str, object] | None = None,
) -> str:
    """The page with all it may ask for: these views at these layers of each store, all if none are said, in one
    projection; `state` is what it shows first, as its address has it."""
    kept = _kept(resources, choices, layers or {}, method)
    page = static("explore.html")
    for name in FILES:
        if name.endswith(".css"):
            page = page.replace(f'<link rel="stylesheet" href="static/{name}">', f"<style>{static(name)}</style>")
        elif name.endswith(".js"):
            body = static(name).replace("</script", "<\\/script")
            page = page.replace(f'<script src="static/{name}"></script>', f"<script>{body}</script>")
    data = json.dumps(
        {"kept": kept, "state": urlencode(dict(state or {}))}, separators=(",", ":"), allow_nan=False
    ).replace("<", "\\u003c")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page = page.replace("<head>", f"<head>{policy}", 1)
    page = page.replace("<!--KEPT-->", f'<script type="application/json" id="kept">{data}</script>')
    if (size := len(page.encode())) > MOST_BYTES:
        raise ActstoreError(
            f"the page would have {size / 1e6:.0f} MB: take fewer points, layers or roles (--limit, --layers, --roles)"
        )
    return page


def _kept(
    resources: Resources, choices: Sequence[Choice], layers: Mapping[str, Sequence[int]], method: str
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    chosen = list(dict.fromkeys(title for title, *_ in choices))
    described = []
    for one in resources.described:
        if one["name"] in chosen:
            own = [choice for choice in choices if choice[0] == one["name"]]
            points = [layer for layer in one["layers"] if layer in (layers.get(one["name"]) or one["layers"])]
            described.append(
                one
                | {
                    "path": "",
                    "roles": list(dict.fromkeys(role for _, role, _ in own)),
                    "conditions": list(dict.fromkeys(condition for *_, condition in own)),
                    "layers": points,
                    "methods": [method],
                    "features": [],
                }
            )
    found["stores"] = described
    for one in described:
        title = quote(one["name"], safe="")
        own = [choice for choice in choices if choice[0] == one["name"]]
        for _, role, condition in own:
            base = f"{title}/{quote(role, safe='')}/{quote(condition, safe='')}"
            found[f"{base}/table"] = resources.get(f"{base}/table")
            for layer in one["layers"]:
                found[f"{base}/{method}/{layer}/xy"] = _text(resources.get(f"{base}/{method}/{layer}/xy"))
                found[f"{base}/{method}/{layer}/share"] = resources.get(f"{base}/{method}/{layer}/share")
                found[f"{base}/near/{layer}"] = _text(resources.get(f"{base}/near/{layer}"))
        for number in _samples(resources, own):
            one_sample = resources.sample(one["name"], number)
            for picture in one_sample["pictures"]:
                _thinned(picture["heat"], resources.stores[one["name"]].layers, one["layers"])
                if picture["at"] is not None:
                    path = f"{title}/picture/{picture['at']}"
                    found[path] = found.get(path) or _text(resources.get(path))
            found[f"{title}/sample/{number}"] = one_sample
    return found


def _thinned(heat: dict[str, Any] | None, all_layers: Sequence[int], layers: Sequence[int]) -> None:
    """Leave the attention at these layers alone; in the same order as the layers of the page."""
    if heat is not None:
        heat["layers"] = [one for layer, one in zip(all_layers, heat["layers"], strict=True) if layer in layers]


def _samples(resources: Resources, choices: Sequence[Choice]) -> list[int]:
    """The samples of the plan that points of these views are of."""
    found: set[int] = set()
    for title, role, condition in choices:
        found.update(resources.samples(title, resources.view(title, role, condition)))
    return sorted(found)


def _text(data: bytes) -> str:
    return b64encode(data).decode()
