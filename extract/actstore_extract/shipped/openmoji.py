"""OpenMoji's pictures, drawn from SVG, with what Unicode calls them and the groups that it puts them into.

`openmoji.csv` is made of emoji-test.txt, version 16.0: Copyright (c) 1991-2024 Unicode, Inc., under the Unicode License
v3, which lies beside it. People and their bodies, flags and components are left out.
"""

import csv
import gzip
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

__all__ = ["PIXELS", "Emoji", "convert", "emoji", "seen"]

PIXELS = 224  # each way
_UNITS = 72  # of OpenMoji's drawings, each way
_LOOKED_AT = ("1F34C", "1F988", "1F6F5", "2764", "1F3B7")


class Emoji(NamedTuple):
    """A picture's code points, its name, and the group and subgroup of that."""

    code: str
    name: str
    group: str
    subgroup: str


def emoji() -> list[Emoji]:
    """All that are used, in Unicode's order.

    >>> len(emoji()), emoji()[0]
    (1250, Emoji(code='1F600', name='grinning face', group='Smileys & Emotion', subgroup='face-smiling'))
    """
    with Path(__file__).with_name("openmoji.csv").open(encoding="utf-8", newline="") as file:
        return [Emoji(**row) for row in csv.DictReader(file)]


def convert(folder: Path, out: Path) -> None:
    """Draw every picture over white, as a PNG that has its code points as name."""
    import vl_convert

    drawings = {path.name.removesuffix(".svg.gz").replace("-FE0F", ""): path for path in folder.iterdir()}
    out.mkdir()
    for one in emoji():
        svg = gzip.decompress(drawings[one.code].read_bytes()).decode()
        drawn = Image.open(BytesIO(vl_convert.svg_to_png(svg, scale=PIXELS / _UNITS))).convert("RGBA")
        over_white = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
        over_white.convert("RGB").save(out / f"{one.code}.png")


def seen(folder: Path) -> list[float]:
    """How bright some of the pictures are, in [0, 1]."""
    pictures = [Image.open(folder / f"{code}.png") for code in _LOOKED_AT]
    return [float(np.asarray(picture).mean() / 255) for picture in pictures]
