"""One sample, as a page, a picture and text."""

import re
import struct
import zlib
from base64 import b64decode

import numpy as np
import pytest

import actstore
import lenses
import looking
from actstore import ActstoreError
from actstore.commands.main import run
from actstore_analyze.report.explore.drawing import png_of
from actstore_analyze.report.explore.pictures import why_beside
from actstore_analyze.report.explore.sample import sample
from actstore_analyze.report.explore.show import show


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return looking.make(tmp_path_factory.mktemp("shown") / "s")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return looking.make(tmp_path_factory.mktemp("bare") / "s", kept=False)


def test_a_sample_is_what_was_written(store):
    found = sample(store, "s05")
    assert [(one.position, one.text, one.roles) for one in found.tokens] == [
        *((at, f"w{at + 5}" if at not in (2, 3) else looking.VOCABULARY[at + 5], ("image",)) for at in (1, 2, 3, 4)),
        (5, "w10", ("eoi",)),
        (7, "w12", ("last",)),
    ]
    (picture,) = found.pictures
    assert picture.webp == looking.picture(5)
    np.testing.assert_array_equal(picture.heat.values, looking.mass()[:, 5, 1:5].reshape(3, 2, 2))
    assert found.said == [("cat", 0.5), ("w9", 0.25)]
    assert (found.text, found.columns) == ("a cat", {"label": "<b>", "split": "train"})
    assert found.missing == {"tokens": '6 of 8 positions are kept; capture.roles = ["all"] keeps all'}


def test_the_lens_says_what_its_arrays_say(store):
    """Computed here anew, position by position."""
    found, lens = sample(store, "s05").lens, lenses.made()
    assert found.positions == (1, 2, 3, 4, 5, 7)
    for layer in looking.LAYERS:
        for i, (role, k) in enumerate([*(("image", k) for k in range(4)), ("eoi", 0), ("last", 0)]):
            x = looking.vectors(role)[layer, 5 * len(looking.AT[role]) + k].astype(float)
            normed = x / np.sqrt(np.mean(x**2) + 0.1) * lens.weight + lens.shift
            logits = 1.5 * (lens.unembedding.astype(float) @ normed + lens.bias)
            p = np.exp(logits - logits.max())
            assert found.tokens[layer][i] == looking.VOCABULARY[int(p.argmax())]
            assert found.probabilities[layer, i] == pytest.approx(p.max() / p.sum(), rel=1e-4)


def test_what_is_not_kept_is_said_in_its_place(bare, capsys, tmp_path):
    assert run(["show", str(bare.path), "s05"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    keys = ("capture.thumbnails = 96", "capture.mass = true", "capture.lens = true", "capture.next_token = true")
    for key in (*keys, 'capture.roles = ["all"]', "capture.max_new_tokens"):
        assert key in shown
    show(bare, "s05").save(tmp_path / "s.html")
    page = (tmp_path / "s.html").read_text()
    for key in (*keys, "capture.roles = [&#34;all&#34;]"):
        assert key in page


def test_the_page_holds_the_picture_and_nothing_of_others(store, tmp_path):
    found = show(store, "s05")
    found.save(tmp_path / "s.html")
    page = (tmp_path / "s.html").read_text()
    webp, *heats = [b64decode(one) for one in re.findall(r'href="data:image/\w+;base64,([^"]+)"', page)]
    assert webp == looking.picture(5)
    assert len(heats) == 4  # two layers, each behind the picture; nothing reads the last
    assert heats[1] == png_of(looking.mass()[0, 5, 1:5].reshape(2, 2))
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "<iframe sandbox" in found._repr_html_()


def test_a_heat_is_clear_where_it_is_least_and_full_where_it_is_most():
    png = png_of(np.array([[0.0, 1.0, 0.5]], np.float32))
    at = png.index(b"IDAT")
    (size,) = struct.unpack(">I", png[at - 4 : at])
    pixels = np.frombuffer(zlib.decompress(png[at + 4 : at + 4 + size])[1:], np.uint8).reshape(3, 4)
    assert pixels[:, 3].tolist() == [0, 215, 108]


def test_a_page_of_a_sample_names_no_folder(bare, tmp_path):
    assert run(["show", str(bare.path), "s05", "-o", str(tmp_path / "s.html")]) == 0
    text = (tmp_path / "s.html").read_text()
    assert "actstore thumbnails s" in text
    assert str(bare.path.parent) not in text


def test_png_and_svg(store, tmp_path):
    for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<svg")):
        assert run(["show", str(store.path), "s05", "-o", str(tmp_path / f"s{suffix}")]) == 0
        assert (tmp_path / f"s{suffix}").read_bytes().startswith(begins)
    with pytest.raises(ActstoreError, match=r"\.html, \.png, \.svg"):
        show(store, "s05").save(tmp_path / "s.pdf")


def test_the_store_itself_shows_it_and_says_why_one_failed(store, capsys):
    assert actstore.open(store.path).show("s05").sample.said == sample(store, "s05").said
    assert run(["show", str(store.path), "s23"]) == 0
    assert "failed: not a picture" in capsys.readouterr().out
    with pytest.raises(ActstoreError, match="has no sample 's5'; did you mean 's[0-9]5'"):
        store.show("s5")
    with pytest.raises(ActstoreError, match="'s05' was not run under 'nome'; did you mean 'none'"):
        store.show("s05", "nome")


@pytest.mark.parametrize(
    ("size", "settings", "said"),
    [
        ((96, 96), {}, None),
        ((96, 90), {}, None),
        ((96, 64), {}, "cut, padded or stretched"),
        ((96, 96), {"do_center_crop": True, "crop_size.height": 224, "size.shortest_edge": 256}, "margins"),
        ((96, 96), {"do_center_crop": True, "crop_size.height": 224, "size.shortest_edge": 224}, None),
    ],
)
def test_a_grid_lies_on_the_picture_only_where_the_model_saw_all_of_it(size, settings, said):
    card = {"settings": {f"vision/preprocessor_config.json: {key}": value for key, value in settings.items()}}
    found = why_beside(size, (24, 24), card)
    in_force = {"do_center_crop": True, "crop_size": {"height": 168, "width": 168}, "size": {"shortest_edge": 168}}
    assert (why_beside(size, (24, 24), card | {"processor": in_force}) is None) == (size != (96, 64))
    in_force["size"] = {"shortest_edge": 192}
    assert "margins" in why_beside((96, 96), (24, 24), {"processor": in_force})
    assert (found is None) == (said is None)
    assert said is None or said in found
