"""Drawings of a sample: pieces of SVG that a page and a picture share."""

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from actstore.errors import visible
from actstore_analyze.report.explore.sample import Grid, Heat, Picture, Sample, Token

__all__ = ["Drawing", "bars", "chosen", "heats", "lens", "png_of", "prompt", "stacked"]

PANEL, GAP, LINE = 104, 14, 17  # pixels
CHARACTER = 7.3  # a character's width in the monospace font at 12 pixels
MOST_PANELS = 12
HEAT = (226, 88, 20)
MOST_LETTERS = 9
# As the page's style sheet has them; a file by itself has no dark mode.
STYLE = (
    "text{font:12px 'DejaVu Sans Mono','Liberation Mono',Menlo,Consolas,monospace;fill:#1c2430}.quiet{fill:#5b6675}"
    ".mark{fill:#2b6cb0}.warm{fill:#e25814}.edge{fill:none;stroke:#c9cfd8}.chip{fill:#e9eef5}"
)


@dataclass(frozen=True)
class Drawing:
    """SVG without its outer element, of a width and height in pixels."""

    inner: str
    width: float
    height: float

    @property
    def svg(self) -> str:
        """It alone, as a page has it."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" height="{self.height:g}" role="img">{self.inner}</svg>'
        )


def png_of(values: NDArray[np.float32], colour: tuple[int, int, int] = HEAT) -> bytes:
    """A PNG of values (rows, columns), one pixel each: from clear for the least to full colour for the largest."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    share = np.nan_to_num((values - low) / max(high - low, 1e-12))
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, np.rint(share * 215)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    rows, columns = values.shape
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)), (b"IDAT", zlib.compress(lines, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in [*chunks, (b"IEND", b"")]
    )


def chosen(layers: Sequence[int], most: int = MOST_PANELS) -> list[int]:
    """Indices of at most so many layers, evenly spaced, the first and the last among them.

    >>> chosen(range(33), 5)
    [0, 8, 16, 24, 32]
    """
    return sorted({round(at) for at in np.linspace(0, len(layers) - 1, min(most, len(layers)))})


def heats(picture: Picture, layers: Sequence[int]) -> Drawing:
    """The picture, and at each layer what the text's attention pays to its cells, each on a scale of its own."""
    heat = picture.heat
    panels = [_panel(_image(picture), "the picture")] if picture.webp else []
    if heat is not None:
        read = [i for i in range(len(layers)) if np.isfinite(heat.values[i]).all()]
        behind = _image(picture) if picture.webp and heat.beside is None else ""
        for i in [read[at] for at in chosen(read)]:
            drawn = behind + _raster("png", png_of(heat.values[i]), grid=heat)
            panels.append(_panel(drawn, f"layer {layers[i]}", f"{heat.values[i].min():.2g}–{heat.values[i].max():.2g}"))
    return _rows(panels, PANEL, PANEL + 2 * LINE + 6)


def _panel(inner: str, *lines: str) -> str:
    texts = "".join(
        f'<text class="{"quiet" if i else ""}" x="0" y="{PANEL + LINE * (i + 1)}">{escape(line)}</text>'
        for i, line in enumerate(lines)
    )
    return f'{inner}<rect class="edge" x=".5" y=".5" width="{PANEL - 1}" height="{PANEL - 1}"/>{texts}'


def _image(picture: Picture) -> str:
    assert picture.webp is not None
    return _raster("webp", picture.webp)


def _raster(kind: str, data: bytes, grid: Heat | None = None) -> str:
    """A picture in its panel, as it is; a grid that lies on the picture fills the panel as the model saw it."""
    aspect = "none" if grid is None or grid.beside is None else "xMidYMid meet"
    crisp = ' image-rendering="optimizeSpeed" style="image-rendering:pixelated"'
    return (
        f'<image width="{PANEL}" height="{PANEL}" preserveAspectRatio="{aspect}"{crisp} '
        f'href="data:image/{kind};base64,{b64encode(data).decode()}"/>'
    )


def _rows(panels: Sequence[str], width: int, height: int, most: int = 7) -> Drawing:
    """Panels side by side, so many in a row."""
    across = min(most, max(1, len(panels)))
    inner = "".join(
        f'<g transform="translate({i % across * (width + GAP)} {i // across * (height + GAP)})">{panel}</g>'
        for i, panel in enumerate(panels)
    )
    down = -(-len(panels) // across)
    return Drawing(inner, across * (width + GAP) - GAP, down * (height + GAP) - GAP)


def bars(said: Sequence[tuple[str, float]], most: int = 8) -> Drawing:
    """The likeliest next tokens, with their probabilities."""
    words = [_shortened(word, 18) for word, _ in said[:most]]
    left = CHARACTER * max(map(len, words), default=0) + 10
    inner = "".join(
        f'<text x="0" y="{LINE * i + 13}">{escape(word)}</text>'
        f'<rect class="mark" x="{left:g}" y="{LINE * i + 3}" width="{max(1, 220 * p):.1f}" height="11" rx="2"/>'
        f'<text class="quiet" x="{left + 220 * p + 8:.1f}" y="{LINE * i + 13}">{p:.3f}</text>'
        for i, (word, (_, p)) in enumerate(zip(words, said, strict=False))
    )
    return Drawing(inner, left + 290, LINE * len(words) + 2)


def prompt(tokens: Sequence[Token], length: int | None, wide: float = 820) -> Drawing:
    """The tokens as they follow each other, in lines, each with its position above; gaps where no vector is kept.

    Image tokens that follow each other and have no role but `image` stand as one.
    """
    x, y, inner = 0.0, 0.0, ""
    for text, above, known in _pieces(tokens, length):
        width = CHARACTER * max(len(text), len(above)) + 10
        if x and x + width > wide:
            x, y = 0.0, y + 46
        shape = (
            f'<rect class="chip" x="{x:.1f}" y="{y + 15:.1f}" width="{width:.1f}" height="20" rx="4"/>' if known else ""
        )
        inner += (
            f'{shape}<text class="quiet" x="{x + 5:.1f}" y="{y + 11:.1f}">{escape(above)}</text>'
            f'<text x="{x + 5:.1f}" y="{y + 29:.1f}" class="{"" if known else "quiet"}">{escape(text)}</text>'
        )
        x += width + 4
    return Drawing(inner, wide, y + 40)


def _left_out(count: int) -> str:
    """
    >>> _left_out(1), _left_out(17)
    ('1 token without a vector', '17 tokens without a vector')
    """
    return f"{count} token{'s' if count != 1 else ''} without a vector"


def _pieces(tokens: Sequence[Token], length: int | None) -> list[tuple[str, str, bool]]:
    """Text, what stands above it, and whether it is kept."""
    found: list[tuple[str, str, bool]] = []
    after = 0
    run: list[Token] = []

    def close() -> None:
        if run:
            at = str(run[0].position) if len(run) == 1 else f"{run[0].position}..{run[-1].position}"
            found.append((_shortened(run[0].text or "?", 24) + (f" × {len(run)}" if len(run) > 1 else ""), at, True))
            run.clear()

    for token in tokens:
        if token.position > after:
            close()
            found.append(("…", _left_out(token.position - after), False))
        after = token.position + 1
        if token.roles == ("image",) and (not run or run[-1].text == token.text):
            run.append(token)
            continue
        close()
        roles = [role for role in token.roles if role != "image"]
        if roles or token.modality == "image":
            found.append((_shortened(token.text or "?", 24), " ".join([str(token.position), *roles]), True))
        else:
            run.append(token)
    close()
    if length is not None and after < length:
        found.append(("…", _left_out(length - after), False))
    return found


def lens(grid: Grid, tokens: Sequence[Token], layers: Sequence[int]) -> Drawing:
    """The lens as a grid, the last layer on top: what would be said next there, the surer the darker."""
    wide, high, left, top = CHARACTER * MOST_LETTERS + 10, 22, 34, 40
    words = {token.position: token.text or "?" for token in tokens}
    inner = "".join(
        f'<text class="quiet" x="{left + i * wide + 4:.1f}" y="14">{at}</text>'
        f'<text x="{left + i * wide + 4:.1f}" y="31">{escape(_shortened(words.get(at, "?"), MOST_LETTERS))}</text>'
        for i, at in enumerate(grid.positions)
    )
    for row, layer in enumerate(reversed(range(len(layers)))):
        y = top + row * high
        inner += f'<text class="quiet" x="0" y="{y + 15}">{layers[layer]}</text>'
        for i, (word, p) in enumerate(zip(grid.tokens[layer], grid.probabilities[layer], strict=True)):
            x = left + i * wide
            inner += (
                f'<rect class="warm" fill-opacity="{0.75 * p:.2f}" x="{x:.1f}" y="{y}" width="{wide - 2:.1f}" '
                f'height="{high - 2}"><title>layer {layers[layer]}, position {grid.positions[i]}: '
                f"{escape(visible(word))} {p:.3f}</title></rect>"
                f'<text pointer-events="none" x="{x + 4:.1f}" y="{y + 15}">'
                f"{escape(_shortened(word, MOST_LETTERS))}</text>"
            )
    return Drawing(inner, left + wide * len(grid.positions), top + high * len(layers))


def _shortened(text: str, most: int) -> str:
    shown = visible(text)
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def stacked(sample: Sample, sections: Sequence[tuple[str, Drawing | str]]) -> str:
    """A whole SVG: the sample's name, then sections one below the other, each with its heading."""
    y, inner, wide = 34.0, f'<text x="0" y="20" style="font-size:17px">{escape(visible(sample.title))}</text>', 820.0
    for heading, body in sections:
        y += 26
        inner += f'<text class="quiet" x="0" y="{y:g}">{escape(visible(heading))}</text>'
        y += 10
        if isinstance(body, str):
            y += LINE
            inner += f'<text x="0" y="{y:g}">{escape(visible(body))}</text>'
            wide = max(wide, CHARACTER * len(body))
        else:
            inner += f'<g transform="translate(0 {y:g})">{body.inner}</g>'
            y, wide = y + body.height, max(wide, body.width)
    margin = 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide + 2 * margin:g}" height="{y + 2 * margin:g}">'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#ffffff"/>'
        f'<g transform="translate({margin} {margin})">{inner}</g></svg>'
    )
