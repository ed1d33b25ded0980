"""The explorer's page: files that a server sends, or one file that holds all it may ask for."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlencode

from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore_analyze.report.explore import kept
from actstore_analyze.report.explore.kept import Choice
from actstore_analyze.report.explore.resources import Resources
from actstore_analyze.report.explore.view import NEAREST

__all__ = ["FILES", "Choice", "checked", "choices", "estimate", "framed", "saved", "static"]

FILES = {
    "explore.html": "text/html; charset=utf-8",
    "explore.css": "text/css; charset=utf-8",
    **dict.fromkeys(
        ("elements.js", "card.js", "groups.js", "panel.js", "explore.js", "vendor/regl-scatterplot.min.js"),
        "text/javascript; charset=utf-8",
    ),
}
# regl makes draw functions of text; a page by itself asks nobody for anything.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
POINT_BYTES = 90  # of its row of the table
CLUSTER_BYTES = 3  # of a point's code at a layer
WORD_BYTES = 16  # with its probability
FEATURE_BYTES = 20  # with its activation
MOST_BYTES = 200_000_000
SAMPLE_BYTES = 700  # of JSON, beside its attention


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
    return [(one["name"], role, condition) for one in resources.described for role, condition in one["views"]]


def framed(page: str, height: int, allowed: str = "") -> str:
    """A page in a frame of its own, as a notebook shows it."""
    style = f"width:100%;height:{height}px;border:1px solid #ccc"
    return f'<iframe sandbox="{allowed}" style="{style}" srcdoc="{escape(page)}"></iframe>'


def estimate(resources: Resources, choices: Sequence[Choice], layers: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Bytes of a saved page, roughly, by what they are for."""
    points = sum(
        resources.view(*choice).rows.height
        * (len(layers[choice[0]]) * ((8 + 4 * NEAREST) * 4 // 3 + CLUSTER_BYTES) + POINT_BYTES)
        for choice in choices
    )
    samples, attention = 0, 0
    for title in dict.fromkeys(title for title, *_ in choices):
        numbers = kept.samples(resources, [one for one in choices if one[0] == title])
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
    words = sum(
        WORD_BYTES * len(layers[title]) * (views * kept.WORDS + cells)
        for title, views, cells in kept.worded(resources, choices, layers)
    )
    features = 0
    for title, own, cells in kept.featured(resources, choices, layers):
        n = len([layer for layer in resources.features.layers(resources.stores[title]) if layer in layers[title]])
        features += kept.STRONGEST * n * (FEATURE_BYTES * own + cells * 4 // 3)
    return {
        "points": points,
        "samples": samples,
        "attention": attention,
        "pictures": pictures,
        "words": words,
        "features": features,
    }


def saved(
    resources: Resources,
    choices: Sequence[Choice],
    *,
    layers: Mapping[str, Sequence[int]] | None = None,
    method: str = "pca",
    state: Mapping[str, object] | None = None,
) -> str:
    """The page with all it may ask for: these views at these layers of each store, all if none are said, in one
    projection; `state` is what it shows first, as its address has it.

    Raises QueryError for wrong SQL in it, ActstoreError for a page of over 200 MB.
    """
    seen = {name: str(value) for name, value in (state or {}).items()}
    found = kept.kept(resources, choices, layers or {}, method, seen)
    page = static("explore.html")
    for name in FILES:
        if name.endswith(".css"):
            page = page.replace(f'<link rel="stylesheet" href="static/{name}">', f"<style>{static(name)}</style>")
        elif name.endswith(".js"):
            body = static(name).replace("</script", "<\\/script")
            page = page.replace(f'<script src="static/{name}"></script>', f"<script>{body}</script>")
    data = json.dumps({"kept": found, "state": urlencode(seen)}, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    page = page.replace("<head>", f"<head>{policy}", 1)
    page = page.replace("<!--KEPT-->", f'<script type="application/json" id="kept">{data}</script>')
    if (size := len(page.encode())) > MOST_BYTES:
        raise ActstoreError(
            f"the page would have {size / 1e6:.0f} MB: take fewer points, layers or roles (--limit, --layers, --roles)"
        )
    return page
