"""A sample as a page and as a picture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actstore.commands.outputs import written
from actstore.errors import ActstoreError, visible
from actstore.format.given import suffix_of
from actstore_analyze.report.explore import drawing
from actstore_analyze.report.explore.drawing import Drawing
from actstore_analyze.report.explore.sample import Sample

__all__ = ["page", "save", "sections", "svg"]

SUFFIXES = (".html", ".png", ".svg")
PNG_SCALE = 2


def sections(sample: Sample) -> Iterator[tuple[str, Drawing | str]]:
    """Heading and drawing of each part of a sample, or what keeps it where the store does not."""
    missing = sample.missing
    if sample.error is not None:
        yield "it failed", sample.error
        return
    for name in ("said", "text"):
        heading = {"said": "next token", "text": "generated"}[name]
        if name in missing:
            yield heading, f"not kept: {missing[name]}"
        elif name == "said":
            yield heading, drawing.bars(sample.said)
        else:
            yield heading, f"“{sample.text}”"
    if "pictures" in missing:
        yield "picture", missing["pictures"].replace(str(sample.store), sample.store.name)  # others get the page
    for picture in sample.pictures:
        heading = picture.name
        if picture.heat is not None:
            heading += ": where the text looks, by layer (mean over heads, sum over text positions; each from its least"
            heading += " to its largest)"
            heading += f"; {picture.heat.beside}" if picture.heat.beside else ""
        if picture.webp or picture.heat:
            yield heading, drawing.heats(picture, sample.layers)
    if "attention" in missing:
        yield "where the text looks", f"not kept: {missing['attention']}"
    note = f" ({missing['tokens']})" if "tokens" in missing else ""
    yield f"prompt as its tokens, with position and roles{note}", drawing.prompt(sample.tokens, sample.length)
    if sample.lens is None:
        yield "logit lens", f"not kept: {missing['lens']}" if "lens" in missing else "no position is kept"
    else:
        yield (
            "logit lens: what would be said next at each layer (from below) and position, the surer the darker",
            drawing.lens(sample.lens, sample.tokens, sample.layers),
        )


def svg(sample: Sample) -> str:
    """All of it as one SVG."""
    own = " · ".join(f"{name}: {value}" for name, value in sample.columns.items())
    return drawing.stacked(sample, [(own, ""), *sections(sample)] if own else list(sections(sample)))


def page(sample: Sample) -> str:
    """All of it as one HTML page that asks nobody for anything."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("actstore_analyze.report.explore")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    content: dict[str, Any] = {
        "title": visible(sample.title),
        "store": visible(sample.store.name),
        "model": visible(sample.model),
        "prompt": None if sample.prompt is None else visible(sample.prompt, lines=True),
        "columns": {visible(name): visible(str(value)) for name, value in sample.columns.items()},
        "sections": [
            (visible(heading), body.svg if isinstance(body, Drawing) else None, body if isinstance(body, str) else "")
            for heading, body in sections(sample)
        ],
    }
    return environment.get_template("sample.html").render(content)


def save(sample: Sample, path: Path) -> None:
    """Write it as .html, .png or .svg; raises ActstoreError for another suffix, and where it cannot be written."""
    if (suffix := suffix_of(path)) not in SUFFIXES:
        raise ActstoreError(f"{path}: a sample is written as {', '.join(SUFFIXES)}")
    if suffix == ".png":
        import vl_convert

        data = vl_convert.svg_to_png(svg(sample), scale=PNG_SCALE)
    else:
        data = (page(sample) if suffix == ".html" else svg(sample)).encode()
    with written(path) as draft:
        draft.write_bytes(data)
