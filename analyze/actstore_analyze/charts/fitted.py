"""Text of drawings kept to the room that it was given, in whatever letters a machine draws it."""

import re
from html import unescape

__all__ = ["fitted", "length"]

# Advance widths of Helvetica, which are those of Arial and of Liberation Sans, in thousandths of the size: " " to "~".
REGULAR = (
    *(278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278),
    *(*(10 * [556]), 278, 278, 584, 584, 584, 556),
    *(1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778),
    *(667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556),
    *(333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556),
    *(556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584),
)
BOLD = (
    *(278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278),
    *(*(10 * [556]), 333, 333, 584, 584, 584, 611),
    *(975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833, 722, 778),
    *(667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556),
    *(333, 556, 611, 556, 611, 556, 333, 611, 611, 278, 278, 556, 278, 889, 611, 611),
    *(611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280, 389, 584),
)
OTHERS = {"χ": 525, "±": 549, "×": 584, "–": 556, "…": 1000, "“": 333, "”": 333, "’": 222, "²": 333, "°": 400}
TEXT = re.compile(r"<text\b([^>]*)>(.*?)</text>", re.DOTALL)
LINE = re.compile(r"<tspan\b([^>]*)>([^<]*)")
SIZE = re.compile(r'font-size="([\d.]+)px"')
WEIGHT = re.compile(r'font-weight="(\w+)"')
LIGHT = 600  # the least weight that is drawn bold


def length(text: str, size: float, *, bold: bool = False) -> float | None:
    """Pixels of a text in Helvetica of that size; None where it has letters whose width is not known.

    >>> length("layer", 10), length("層", 10)
    (21.67, None)
    """
    widths = BOLD if bold else REGULAR
    found = [widths[ord(one) - 32] if " " <= one <= "~" else OTHERS.get(one) for one in text]
    known = [one for one in found if one is not None]
    return round(sum(known) * size / 1000, 2) if len(known) == len(found) else None


def fitted(svg: str) -> str:
    """The drawing with each text as long as it was taken to be: wider letters are drawn narrower, and nothing is cut.

    >>> fitted('<text font-size="10px">layer</text>')
    '<text font-size="10px" textLength="21.67" lengthAdjust="spacingAndGlyphs">layer</text>'
    """
    return TEXT.sub(_text, svg)


def _text(found: re.Match[str]) -> str:
    attributes, inside = found.groups()
    size, weight = SIZE.search(attributes), WEIGHT.search(attributes)
    if size is None:
        return found[0]
    bold = weight is not None and (weight[1] == "bold" or (weight[1].isdigit() and int(weight[1]) >= LIGHT))

    def own(text: str) -> str:
        pixels = length(unescape(text), float(size[1]), bold=bold)
        return f' textLength="{pixels}" lengthAdjust="spacingAndGlyphs"' if pixels else ""

    if "<" not in inside:
        return f"<text{attributes}{own(inside)}>{inside}</text>"
    lines = LINE.sub(lambda line: f"<tspan{line[1]}{own(line[2])}>{line[2]}", inside)
    return f"<text{attributes}>{lines}</text>"
