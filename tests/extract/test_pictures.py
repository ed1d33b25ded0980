"""The one door for pictures, beside what Transformers sees in the same files."""

import os
import struct
import warnings
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb
from transformers.image_utils import load_image

from actstore_extract.pictures import PictureError, open_image, seen, shown

pytestmark = pytest.mark.filterwarnings("ignore:IM image format")

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
SIXTEEN = ["I;16", "I;16B", "I;16L"]
GREY = np.random.default_rng(0).permutation(np.arange(0, 252, 6)).astype(np.uint8).reshape(6, 7)  # 0 .. 246
GREY[0, 0] = 255


def drawn(mode: str) -> Image.Image:
    """A picture of 7 x 6 pixels in a mode, half of it transparent where the mode has that."""
    pixels = np.random.default_rng(1).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray(np.resize(np.array([255, 128, 0], np.uint8), (6, 7))))
    return picture.convert(mode)


def files(picture: Image.Image) -> dict[str, bytes]:
    """Format -> a file of the picture, for every format that can hold it and be read again without other programs."""
    Image.init()
    found = {}
    for kind in sorted({*Image.SAVE} - {"EPS", "PDF"}):
        file = BytesIO()
        try:
            picture.save(file, kind)
            Image.open(file).load()
        except (OSError, KeyError, ValueError, TypeError, NotImplementedError):
            continue
        found[kind] = file.getvalue()
    return found


def file_of(picture: Image.Image, kind: str) -> bytes:
    file = BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def array(picture: Image.Image) -> np.ndarray:
    assert picture.mode == "RGB"
    return np.asarray(picture)


def theirs(file: bytes) -> np.ndarray:
    """What Transformers see: load_image, and where something is transparent what their processors do with that."""
    picture = Image.open(BytesIO(file))
    picture.load()
    if "A" in picture.getbands() or "transparency" in picture.info:
        return convert_to_rgb(ImageOps.exif_transpose(picture), return_numpy=True)
    return array(load_image(picture))


@pytest.mark.parametrize("mode", MODES)
def test_every_format_and_mode_is_seen_as_transformers_see_it(mode):
    found = files(drawn(mode))
    for kind, file in found.items():
        picture = Image.open(BytesIO(file))
        picture.load()
        if picture.mode[0] not in "IF":
            np.testing.assert_array_equal(array(open_image(file)), theirs(file), err_msg=f"{kind} {mode}")
    np.testing.assert_array_equal(array(seen(drawn(mode))), convert_to_rgb(drawn(mode), return_numpy=True))
    assert {"TIFF"} <= {*found} | {"TIFF" if mode == "HSV" else ""}


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_pictures_stand_upright(tmp_path, kind, mode, tag):
    exif, path = Image.Exif(), tmp_path / "turned"
    exif[0x0112] = tag
    drawn(mode).save(path, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert array(open_image(path)).shape == ((6, 7, 3) if tag < 5 else (7, 6, 3))
    np.testing.assert_array_equal(array(open_image(path)), theirs(path.read_bytes()))
    np.testing.assert_array_equal(array(seen(open_image(path))), array(open_image(path)))  # once
    np.testing.assert_array_equal(array(open_image(shown(path))), array(open_image(path)))


@pytest.mark.parametrize("mode", SIXTEEN)
def test_sixteen_bits_are_those_of_eight(mode):
    wide = GREY.astype(np.uint16) * 257
    picture = Image.fromarray(wide).convert("I").convert("I;16") if mode == "I;16" else _sixteen(wide, mode)
    found = files(picture)
    assert {"TIFF", "IM"} <= {*found}
    lossy = {"AVIF", "GIF", "ICNS", "JPEG2000", "SPIDER", "WEBP"}
    for kind in {*found} - lossy:
        np.testing.assert_array_equal(array(open_image(found[kind]))[..., 0], GREY, err_msg=kind)
    np.testing.assert_array_equal(array(seen(picture))[..., 2], GREY)


def _sixteen(values: np.ndarray, mode: str) -> Image.Image:
    order = ">u2" if mode == "I;16B" else "<u2"
    return Image.frombytes(mode, values.shape[::-1], values.astype(order).tobytes())


def test_dark_pictures_of_sixteen_bits_stay_dark():
    dark = (GREY // 4).astype(np.uint16)
    np.testing.assert_array_equal(array(seen(Image.fromarray(dark * 257)))[..., 1], dark)


@pytest.mark.parametrize("scaled", [lambda x: x / 255, lambda x: x, lambda x: x * 257])
def test_real_numbers_of_a_usual_range(scaled):
    dark = GREY // 2
    picture = Image.fromarray(scaled(dark.astype(np.float64)).astype(np.float32))
    np.testing.assert_array_equal(array(seen(picture))[..., 0], dark)
    for kind in ("TIFF", "IM", "SPIDER"):
        np.testing.assert_array_equal(array(open_image(file_of(picture, kind)))[..., 0], dark, err_msg=kind)


@pytest.mark.parametrize("factor", [1, 257])
def test_whole_numbers_of_a_usual_range(factor):
    dark = GREY // 2
    picture = Image.fromarray(dark.astype(np.int32) * factor)
    assert picture.mode == "I"
    np.testing.assert_array_equal(array(seen(picture))[..., 0], dark)
    np.testing.assert_array_equal(array(open_image(file_of(picture, "TIFF")))[..., 0], dark)


@pytest.mark.parametrize("values", [GREY * 2.5 - 40, GREY * 1e5, GREY.astype(np.int32) * 1000 - 7])
def test_other_numbers_from_the_lowest_to_the_highest(values):
    picture = Image.fromarray(values.astype(np.float32) if values.dtype == np.float64 else values)
    np.testing.assert_array_equal(array(seen(picture))[..., 0], GREY)
    np.testing.assert_array_equal(array(open_image(file_of(picture, "TIFF")))[..., 0], GREY)


def test_graymaps_say_what_is_white():
    dark = GREY.astype(np.uint16) // 2
    for high in (65535, 1020):  # a 16-bit PGM, and one of fewer
        factor = high // 255
        file = f"P5 7 6 {high}\n".encode() + (dark * factor).astype(">u2").tobytes()
        np.testing.assert_array_equal(array(open_image(file))[..., 0], dark, err_msg=str(high))


def tiff(rows: bytes, bits: int, photometric: int) -> bytes:
    """A little-endian TIFF of 7 x 6 grey values in one strip."""
    tags = [
        *((256, 3, 1, 7), (257, 3, 1, 6), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, photometric)),
        *((273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 6), (279, 4, 1, len(rows))),
    ]
    packed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + packed + bytes(4)


def test_tiffs_of_twelve_bits_and_negatives():
    twelve = [f"{int(value) * 4095 // 255:012b}" for value in GREY.ravel()]
    rows = ["".join(twelve[7 * i : 7 * i + 7]).ljust(88, "0") for i in range(6)]  # rows begin with a byte
    packed = b"".join(int(row, 2).to_bytes(11, "big") for row in rows)
    np.testing.assert_allclose(array(open_image(tiff(packed, 12, 1)))[..., 0], GREY, atol=1)
    wide = (GREY.astype("<u2") * 257).tobytes()
    np.testing.assert_array_equal(array(open_image(tiff(wide, 16, 1)))[..., 0], GREY)
    np.testing.assert_array_equal(array(open_image(tiff(wide, 16, 0)))[..., 0], 255 - GREY)


def test_transparent_grey_of_sixteen_bits_is_white():
    file = BytesIO()
    Image.fromarray(GREY.astype(np.uint16) * 257).save(file, "PNG", transparency=6 * 257)
    np.testing.assert_array_equal(array(open_image(file.getvalue()))[..., 0], np.where(GREY == 6, 255, GREY))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.0, float("nan")], "mode F with values that are not finite"),
        ([0.0, float("inf")], "mode F with values that are not finite"),
        ([-0.5, -0.5], "mode F with all values -0.5: nothing says how bright that is"),
    ],
)
def test_numbers_without_a_range_are_refused(values, message):
    with pytest.raises(PictureError, match=message):
        seen(Image.fromarray(np.array([values], np.float32)))


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(PictureError, match="0 x 5 pixels"):
        seen(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "TIFF", "WEBP"])
def test_whatever_is_wrong_with_a_file_is_one_error(kind):
    """Any byte of the beginning turned over, and any length cut off."""
    whole = file_of(drawn("RGB"), kind)
    outcomes = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in range(0, min(len(whole), 60), 6):
            for turned in (0x40, 0xFF):
                outcomes[_opened(whole[:i] + bytes([whole[i] ^ turned]) + whole[i + 1 :])] += 1
            outcomes[_opened(whole[:i])] += 1
    assert outcomes["refused"] > 3
    assert outcomes["seen"] + outcomes["refused"] == outcomes.total()


def _opened(file: bytes) -> str:
    try:
        picture = open_image(file)
    except PictureError as error:
        return "refused" if str(error).strip() and "0x" not in str(error) else str(error)
    return "seen" if picture.mode == "RGB" else picture.mode


def test_errors_that_pillow_does_not_list_are_that_one_too():
    turned = bytearray(file_of(drawn("RGB"), "DDS"))
    turned[80] = 0  # flags of the pixels: NotImplementedError
    with pytest.raises(PictureError, match="NotImplementedError: Unknown pixel format flags 0"):
        open_image(bytes(turned))


def test_too_large_and_absent(tmp_path):
    with pytest.raises(PictureError, match=r"400000000 pixels\) exceeds limit"):
        open_image(struct.pack("<2sIII IiiHHIIiiII", b"BM", 54, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 0, 0, 0, 0))
    with pytest.raises(PictureError, match=r"gone.png"):
        open_image(tmp_path / "gone.png")
    with pytest.raises(PictureError, match=r"^cannot identify image file$"):
        open_image(b"no picture")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n<!DOCTYPE html><html>", "it is a page or a drawing in text"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC, of a phone, which is not read here: save it as JPEG"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "it is the pointer of a file that was not fetched: git lfs pull",
        ),
        (b"", "it is empty"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(content, said):
    with pytest.raises(PictureError, match=f"^cannot identify image file: {said}"):
        open_image(content)


@pytest.mark.parametrize("kind", ["GIF", "JPEG", "PNG", "WEBP"])
def test_a_judge_is_shown_the_file_itself_where_it_can(tmp_path, kind):
    path = tmp_path / "picture"
    drawn("RGB").save(path, kind)
    assert shown(path) == path.read_bytes()


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "TIFF"), ("RGB", "BMP"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("I;16", "PNG")]
)
def test_or_else_what_the_model_sees(tmp_path: Path, mode, kind):
    path = tmp_path / "picture"
    (drawn(mode) if mode != "I;16" else Image.fromarray(GREY.astype(np.uint16) * 257)).save(path, kind)
    assert shown(path).startswith(b"\x89PNG")
    np.testing.assert_array_equal(array(open_image(shown(path))), array(open_image(path)))


def test_of_an_animation_the_first_picture(tmp_path):
    path = tmp_path / "moving.gif"
    drawn("RGB").save(path, save_all=True, append_images=[Image.new("RGB", (7, 6), "red")])
    np.testing.assert_array_equal(array(open_image(shown(path))), array(open_image(path)))
    assert getattr(Image.open(BytesIO(shown(path))), "n_frames", 1) == 1


def test_a_pipe_among_pictures_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for read in (open_image, shown):
        with pytest.raises(PictureError, match="pipe.png: not a plain file"):
            read(tmp_path / "pipe.png")


def test_an_address_is_no_file(tmp_path):
    with pytest.raises(PictureError, match="an address, where a file belongs: fetch the pictures first"):
        open_image(tmp_path / "https://example.com/1.png")
