"""A sample as rich text, for a terminal."""

import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from actstore.errors import visible
from actstore_analyze.report.explore.drawing import chosen
from actstore_analyze.report.explore.sample import Grid, Picture, Sample, Token

__all__ = ["printed", "rendered"]

SHADES = " ░▒▓█"
MOST_CELLS = 32  # columns of a grid that still stand beside others
WIDE = 120  # characters of a line that no terminal shows
MOST_POSITIONS = 8  # columns of the lens


def rendered(sample: Sample) -> Group:
    """All of it, what is not kept in its place with what keeps it."""
    return Group(*_parts(sample))


def printed(sample: Sample) -> str:
    """The same as characters: as wide as the terminal and in colour, or plain in a pipe."""
    terminal = bool(sys.stdout and sys.stdout.isatty())
    console = Console(width=None if terminal else WIDE, force_terminal=terminal)
    with console.capture() as capture:
        console.print(rendered(sample))
    return capture.get()


def _parts(sample: Sample) -> Iterator[RenderableType]:
    yield Text(visible(sample.title), style="bold")
    if sample.prompt is not None:
        yield Text(visible(sample.prompt, lines=True))
    for name, value in sample.columns.items():
        yield Text.assemble((f"{visible(name)}  ", "dim"), visible(str(value)))
    if sample.error is not None:
        yield Text(f"failed: {visible(sample.error)}", style="red")
        return
    yield _heading("next token")
    yield _said(sample.said) if sample.said else _kept_by(sample, "said")
    yield _heading("generated")
    yield Text(f"“{visible(sample.text)}”") if sample.text is not None else _kept_by(sample, "text")
    if "pictures" in sample.missing:
        yield _heading("picture")
        yield Text(sample.missing["pictures"], style="dim")
    for picture in sample.pictures:
        if picture.heat is not None:
            yield _heading(f"where the text looks in {visible(picture.name)}, by layer")
            yield _heats(picture, sample.layers)
    if "attention" in sample.missing:
        yield _heading("where the text looks")
        yield _kept_by(sample, "attention")
    yield _heading("tokens, and their roles")
    yield _tokens(sample.tokens)
    if "tokens" in sample.missing:
        yield Text(sample.missing["tokens"], style="dim")
    yield _heading("logit lens, layers from below")
    yield _kept_by(sample, "lens") if sample.lens is None else _lens(sample.lens, sample.tokens, sample.layers)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold cyan")


def _kept_by(sample: Sample, section: str) -> Text:
    return Text(f"not kept: {sample.missing.get(section, 'no position has a vector')}", style="dim")


def _said(said: list[tuple[str, float]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for word, p in said[:8]:
        table.add_row(Text(visible(word)), Text("█" * round(30 * p) or "▏", style="blue"), f"{p:.3f}")
    return table


def _heats(picture: Picture, layers: tuple[int, ...]) -> Columns:
    assert picture.heat is not None
    values = picture.heat.values
    read = [i for i in range(len(layers)) if np.isfinite(values[i]).all()]
    drawn = (Text(f"{layers[i]}\n{_shaded(values[i])}") for i in (read[at] for at in chosen(read, 8)))
    return Columns(drawn, padding=(0, 2))


def _shaded(values: NDArray[np.float32]) -> str:
    """Values (rows, columns) as shades, two characters each, coarser where there are many.

    >>> _shaded(np.array([[0.0, 1.0], [0.5, 0.0]], np.float32)).splitlines()
    ['  ██', '▒▒  ']
    """
    step = -(-values.shape[1] // MOST_CELLS)
    coarse = values[::step, ::step]
    low, high = float(coarse.min()), float(coarse.max())
    shade = np.rint((coarse - low) / max(high - low, 1e-12) * (len(SHADES) - 1)).astype(int)
    return "\n".join("".join(2 * SHADES[one] for one in row) for row in shade)


def _tokens(tokens: list[Token]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("position", "token", "roles"):
        table.add_column(name, justify="right" if name == "position" else "left")
    shown = [token for token in tokens if token.roles != ("image",)]
    for token in shown:
        table.add_row(str(token.position), Text(visible(token.text or "?")), ", ".join(token.roles))
    if len(shown) < len(tokens):
        table.add_row("", f"and {len(tokens) - len(shown)} image tokens", "image")
    return table


def _lens(grid: Grid, tokens: list[Token], layers: tuple[int, ...]) -> Table:
    """The lens at the last positions that there is room for."""
    words = {token.position: token.text or "?" for token in tokens}
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer", justify="right")
    for at in grid.positions[-MOST_POSITIONS:]:
        table.add_column(Text(f"{at} {visible(words.get(at, '?'))}"), max_width=14, no_wrap=True)
    for i in reversed(range(len(layers))):
        cells = zip(grid.tokens[i], grid.probabilities[i], strict=True)
        table.add_row(
            str(layers[i]),
            *(
                Text(f"{visible(word)} {p:.2f}", style="" if p > 0.5 else "dim")
                for word, p in [*cells][-MOST_POSITIONS:]
            ),
        )
    return table
