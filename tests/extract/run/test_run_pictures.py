"""A run over a folder of pictures as users have them: turned, wide, hidden, too large, broken."""

import json
import shutil
import struct
from io import BytesIO

import numpy as np
import polars as pl
import pytest
from PIL import Image

import actstore
from actstore.commands.main import run
from actstore.format import thumbnails
from actstore_extract.samples.digits import scans
from sampling import source

N = 4
TURNED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
RECIPE = """
check = false
[model]
path = "digits-fusion"
[samples]
source = "imagefolder"
path = {path}
[prompt]
text = "<image>this digit is a"
[capture]
roles = ["eoi"]
batch_size = 4
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Scans as they are, stored turned, in 16 bits and as real numbers; and what is none of the user's."""
    path = tmp_path_factory.mktemp("pictures")
    for name in ("plain", "turned", "wide", "real", "broken", ".hidden", "__MACOSX"):
        (path / name).mkdir()
    for i in range(N):
        scan = scans().image(i)
        grey = np.asarray(scan.convert("L"))
        tag, turn = [*TURNED.items()][i % 3]
        exif = Image.Exif()
        exif[0x0112] = tag
        scan.save(path / "plain" / f"{i}.png")
        scan.transpose(turn).save(path / "turned" / f"{i}.png", exif=exif)
        Image.fromarray(grey.astype(np.uint16) * 257).save(path / "wide" / f"{i}.png")
        Image.fromarray(grey.astype(np.float32) / 255).save(path / "real" / f"{i}.tif")
        scan.save(path / ".hidden" / f"{i}.png")
        scan.save(path / "__MACOSX" / f"{i}.png")
    scans().image(0).save(path / "broken" / "bits.bmp")
    bitmap = bytearray((path / "broken" / "bits.bmp").read_bytes())
    bitmap[28] ^= 0x40
    (path / "broken" / "bits.bmp").write_bytes(bitmap)
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54, 0, 54, 40, 20000, 20000, 1, 24, 0, 0, 0, 0, 0, 0)
    (path / "broken" / "large.bmp").write_bytes(header)
    return path


@pytest.fixture(scope="module")
def store(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "r.toml").write_text(RECIPE.format(path=json.dumps(str(pictures))))
    assert run(["extract", str(folder / "r.toml"), str(folder / "s")]) == 3  # two cannot be read
    assert run(["extract", str(folder / "r.toml"), str(folder / "s")]) == 0
    return actstore.open(folder / "s")


def test_pictures_that_one_rank_cannot_read_end_no_other(pictures, tmp_path, monkeypatch, capsys):
    """torchrun ends all others where one ends with a status, whatever they are at."""
    (tmp_path / "r.toml").write_text(RECIPE.format(path=json.dumps(str(pictures))))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["extract", str(tmp_path / "r.toml"), str(tmp_path / "s")]) == 0
    assert "(2 failed)" in capsys.readouterr().err
    assert not actstore.open(tmp_path / "s").remaining


@pytest.mark.parametrize("label", ["turned", "wide", "real"])
def test_the_same_picture_is_the_same_however_it_is_stored(store, label):
    rows = store.sql("from rows where role = 'eoi' order by sample_id")
    one, other = (rows.filter(pl.col("label") == name) for name in ("plain", label))
    assert one.height == N
    for layer in store.layers:
        np.testing.assert_allclose(
            store.residual(one, layer).astype(float), store.residual(other, layer).astype(float), atol=1e-2, rtol=1e-2
        )


def test_what_cannot_be_read_is_a_failed_row_with_its_reason(store):
    failed = dict(store.sql("select sample_id, error from samples where status = 'failed'").iter_rows())
    assert failed.keys() == {"broken/bits.bmp", "broken/large.bmp"}
    assert "image broken/bits.bmp: " in failed["broken/bits.bmp"]
    assert "400000000 pixels) exceeds limit" in failed["broken/large.bmp"]


def test_what_is_hidden_is_no_class(store):
    labels = store.sql("select distinct label from samples order by label")["label"].to_list()
    assert labels == ["broken", "plain", "real", "turned", "wide"]


def test_a_data_set_of_the_hub_sees_the_same(pictures, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    for kept in ("plain", "turned", "wide"):
        shutil.copytree(pictures / kept, tmp_path / "data" / kept)
    found = source("hub", path=str(tmp_path / "data")).samples()
    assert found.table["label"].to_list() == ["plain"] * N + ["turned"] * N + ["wide"] * N
    assert [found.image(str(i)).tobytes() for i in range(3 * N)] == [
        scans().image(i % N).tobytes() for i in range(3 * N)
    ]


def test_thumbnails_show_what_the_model_saw_and_are_none_unless_asked_for(store, pictures, tmp_path, capfd):
    assert run(["info", str(store.path), "--format", "table"]) == 0
    assert "none; see actstore thumbnails" in capfd.readouterr().out
    (tmp_path / "r.toml").write_text(RECIPE.format(path=json.dumps(str(pictures))))
    again = ["extract", str(tmp_path / "r.toml"), str(store.path), "--set", "capture.thumbnails=4"]
    assert run(again) == 0  # no number depends on it: the store goes on
    assert "2 of 18 pictures cannot be read, broken/bits.bmp the first" in capfd.readouterr().err
    (kept,) = store.results()
    small = {name: row for name, *row in kept.table().iter_rows()}
    assert small.keys() == {*store.plan["image"]}
    for i in range(N):
        width, height, webp, error = small[f"turned/{i}.png"]
        shown = Image.open(BytesIO(webp))
        assert (shown.format, shown.size, width, height, error) == ("WEBP", (4, 4), 8, 8, None)
        plain = np.asarray(Image.open(BytesIO(small[f"plain/{i}.png"][2])), float)
        assert np.abs(np.asarray(shown, float) - plain).max() < 32  # upright, as the plain one is
        assert np.abs(plain - np.asarray(scans().image(i).resize((4, 4)), float)).mean() < 32
    assert small["broken/bits.bmp"][2] is None
    assert small["broken/bits.bmp"][3]
    before = kept.path.stat().st_mtime_ns
    assert run(again) == 0
    assert [one.path.stat().st_mtime_ns for one in store.results()] == [before]
    assert run(["thumbnails", str(store.path), "--pixels", "96"]) == 0
    kept = thumbnails.newest(store.results())
    exact = dict(kept.table().select("image", "thumbnail").iter_rows())
    one = Image.open(BytesIO(exact["plain/0.png"]))
    assert one.tobytes() == scans().image(0).tobytes()  # no larger than it is, then to the pixel
    assert run(["info", str(store.path), "--format", "table"]) == 0
    assert "in it, up to 96 pixels" in capfd.readouterr().out


def test_thumbnails_of_other_samples_are_refused(store, pictures, tmp_path, capfd):
    for label in ("plain", "turned"):
        shutil.copytree(pictures / label, tmp_path / "fewer" / label)
    fewer = f"samples.path={tmp_path / 'fewer'}"
    assert run(["thumbnails", str(store.path), "--set", fewer]) == 1
    assert "10 pictures of its plan are not among the samples" in capfd.readouterr().err
    assert run(["thumbnails", str(store.path), "--set", "samples.resize=5"]) == 1
    assert "resize = None, this recipe has 5" in capfd.readouterr().err
