"""Pictures: the one door through which files become what a model, a training or a judge sees."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from actstore.errors import ActstoreError

__all__ = ["MARKER", "PictureError", "decoding", "open_image", "seen", "shown"]

MARKER = "<image>"  # where a recipe's prompt puts the image, whatever the model's own marker
_SHOWN = ("GIF", "JPEG", "PNG", "WEBP")  # what endpoints of judges take
_WHITES = {"F": (1, 255, 65535), "I": (255, 65535)}  # usual values of white
_PLAIN = ("1", "L", "P", "RGB")  # modes that every decoder turns into the same colours
_SAID = (Image.DecompressionBombError, OSError, SyntaxError, ValueError)  # whose messages say what is wrong
# What lies among pictures under their names, by how its bytes begin, and what to do.
_OTHERS = {
    rb"....ftyp(hei|hev|mif1|msf1)": "it is HEIC, of a phone, which is not read here: save it as JPEG",
    rb"\s*<(!doctype html|html|head|\?xml|svg)": "it is a page or a drawing in text: look at how it was downloaded",
    rb"version https://git-lfs": "it is the pointer of a file that was not fetched: git lfs pull",
    rb"%PDF": "it is a PDF: save its pages as pictures",
    rb"$": "it is empty",
}
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0


class PictureError(ActstoreError):
    """A picture cannot be read."""


def open_image(file: Path | bytes) -> Image.Image:
    """A picture, from its file or the bytes of that, as it is `seen`; raises PictureError where it cannot be read."""
    # From a path Pillow maps some files into memory, and then scrambles TIFFs that are to be turned.
    with decoding(), _opened(_bytes(file) if isinstance(file, Path) else file) as image:
        return seen(image)


def seen(image: Image.Image) -> Image.Image:
    """The picture upright (EXIF), in RGB, what is transparent over white, as the processors of Transformers have it.

    Grey values of more than 8 bits are scaled to 0..255: those of 16 bits by 1/257, of modes I and F from the first of
    the ranges 0..1 (F), 0..255 and 0..65535 that they are in, or else from the lowest to the highest. Raises
    PictureError where it cannot be read.
    """
    with decoding():
        image.load()  # some formats know their mode only then
        if not all(image.size):
            raise PictureError(f"{image.width} x {image.height} pixels: nothing is in it")
        white, negative = _white(image), _negative(image)
        image = ImageOps.exif_transpose(image)
        if image.mode[0] in "IF":
            image = _scaled(image, white, negative=negative)
        if image.mode == "RGB" and "transparency" not in image.info:
            return image
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def shown(path: Path) -> bytes:
    """A file (JPEG, PNG, GIF or WebP) of what is `seen` of a picture: its own where others see the same in it.

    Raises PictureError where it cannot be read.
    """
    with decoding():
        file = _bytes(path)
        with _opened(file) as image:
            image.load()
            plain = image.format in _SHOWN and image.mode in _PLAIN and "transparency" not in image.info
            if plain and getattr(image, "n_frames", 1) == 1 and image.getexif().get(0x0112, 1) == 1:
                return file
            drawn = BytesIO()
            seen(image).save(drawn, "PNG")
            return drawn.getvalue()


def _opened(file: bytes) -> Image.Image:
    """The picture in a file's bytes; PictureError says what else they are, where that is known."""
    try:
        return Image.open(BytesIO(file))
    except UnidentifiedImageError:
        found = (said for begin, said in _OTHERS.items() if re.match(begin, file, re.IGNORECASE | re.DOTALL))
        raise PictureError(": ".join(["cannot identify image file", *islice(found, 1)])) from None


def _bytes(path: Path) -> bytes:
    """The file; a pipe or a device, which may never end, is none."""
    if {"http:", "https:"} & {*path.parts}:
        raise PictureError("an address, where a file belongs: fetch the pictures first, and name their files")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise PictureError(f"{path}: not a plain file")
    return path.read_bytes()


@contextmanager
def decoding() -> Iterator[None]:
    """Inside, whatever decoders raise is a PictureError: they promise no list of errors."""
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        line = str(error).partition(" <_io.")[0]  # without the address of bytes in memory
        raise PictureError(line) from error
    except Exception as error:
        line = " ".join(str(error).split())
        raise PictureError(line if line and isinstance(error, _SAID) else f"{type(error).__name__}: {line}") from error


def _white(image: Image.Image) -> int | None:
    """The value of white in a picture of more than 8 bits, where its file says one."""
    if image.mode.startswith("I;16"):
        bits: int = getattr(image, "tag_v2", {}).get(_BITS, (16,))[0]
        return (1 << bits) - 1
    return 2**16 - 1 if image.mode == "I" and image.format == "PPM" else None


def _negative(image: Image.Image) -> bool:
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _scaled(image: Image.Image, white: int | None, *, negative: bool) -> Image.Image:
    """Grey values as 0..255, 255 for `white`, or as their range has it."""
    values = np.asarray(image, np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise PictureError(f"mode {image.mode} with values that are not finite: nothing says how bright they are")
    whites = _WHITES[image.mode] if white is None else (white,)
    if usual := [one for one in whites if 0 <= low <= high <= one]:
        low, high = 0, usual[0]
    if low == high:
        raise PictureError(f"mode {image.mode} with all values {low:g}: nothing says how bright that is")
    grey = np.rint((values - low) * (255 / (high - low)))
    grey = 255 - grey if negative else grey
    grey[values == image.info.get("transparency")] = 255
    return Image.fromarray(grey.astype(np.uint8))
