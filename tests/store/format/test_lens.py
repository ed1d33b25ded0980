"""The lens of a store: kept as plain numbers, checked as everything else."""

import json

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import actstore
import making
from actstore import CorruptError
from actstore.commands.main import run
from actstore.format import commits, records
from actstore.format.lens import FILES, Lens, Optics
from actstore.maintain import verify
from lenses import TOKENS, D, made


def by_the_page(folder, x):
    """Logits as FORMAT.md says them, from the files alone, in float64."""
    header = json.loads((folder / "actstore.json").read_bytes())
    lens, d, dtype = header["lens"], header["capture"]["d_model"], header["capture"]["dtype"]
    weight, shift = np.fromfile(folder / "lens/norm.bin", "<f4").reshape(2, d).astype(float)
    bias = np.fromfile(folder / "lens/bias.bin", "<f4").astype(float)
    kind = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4"}[dtype]
    unembedding = np.fromfile(folder / "lens/unembedding.bin", kind).reshape(lens["n_tokens"], d)
    if dtype == "bfloat16":
        unembedding = (unembedding.astype(np.uint32) << 16).view(np.float32)
    if lens["norm"] == "layernorm":
        x = x - x.mean(axis=-1, keepdims=True)
    h = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + lens["eps"]) * weight + shift
    logits = (h @ unembedding.T.astype(float) + np.where(np.isfinite(bias), bias, 0)) * lens["scale"]
    if lens["softcap"] is not None:
        logits = np.tanh(logits / lens["softcap"]) * lens["softcap"]
    logits[..., ~np.isfinite(bias)] = -np.inf
    return logits


def with_lens(path, lens=None, dtype="float32"):
    plan = pl.DataFrame({"sample_id": ["a"]})
    return actstore.create(path, plan=plan, layers=[0, 2], d_model=D, dtype=dtype, lens=lens or made())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("norm", "softcap"), [("rmsnorm", None), ("layernorm", 4.0)])
def test_a_store_gives_the_lens_back(tmp_path, norm, softcap, dtype):
    store = with_lens(tmp_path / "s", made(norm, softcap), dtype)
    x = np.random.default_rng(1).standard_normal((5, D))
    found = store.lens.logits(store.lens.normed(x))
    assert_allclose(found, by_the_page(store.path, x), rtol=1e-4, atol=1e-4)
    assert (found == -np.inf).sum() == 2 * 5
    some = np.array([7, 3, 0])
    assert_allclose(store.lens.logits(store.lens.normed(x), some), found[:, some], rtol=1e-5)


def test_bit_patterns_are_kept_as_they_are(tmp_path):
    bits = np.arange(TOKENS * D, dtype=np.uint16).reshape(TOKENS, D)
    lens = made()
    store = with_lens(tmp_path / "s", Lens(lens.optics, lens.weight, lens.shift, lens.bias, bits), "bfloat16")
    assert_array_equal(store.lens.unembedding, bits)


def test_most_stores_have_none(tmp_path, capsys):
    assert run(["info", str(with_lens(tmp_path / "lens").path), "--format", "table"]) == 0
    assert "61 tokens, for actstore lens" in capsys.readouterr().out
    store = making.store(tmp_path / "s", 1)
    assert run(["info", str(store.path), "--format", "table"]) == 0
    assert "for actstore lens" not in capsys.readouterr().out
    assert store.lens is None
    assert "lens" not in json.loads((store.path / "actstore.json").read_bytes())


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_never_read(tmp_path, name):
    store = with_lens(tmp_path / "s")
    content = bytearray((store.path / name).read_bytes())
    content[5] ^= 1
    (store.path / name).write_bytes(content)
    with pytest.raises(CorruptError, match=rf"{name}: its bytes differ"):
        _ = actstore.open(store.path).lens
    assert [one.file for one in verify.run(verify.steps(store.path))] == [name]


def test_a_folder_that_is_a_link(tmp_path):
    store = with_lens(tmp_path / "s")
    (store.path / "lens").rename(tmp_path / "elsewhere")
    (store.path / "lens").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match="lens: not a plain folder; a store holds no links"):
        actstore.open(store.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_tokens": TOKENS + 1},
        {"n_tokens": 0},
        {"n_tokens": 10**15},
        {"norm": "batchnorm"},
        {"eps": "many"},
        {"eps": -1.0},
        {"scale": 0.0},
        {"scale": 10**400},
        {"softcap": -2.0},
    ],
)
def test_a_header_that_contradicts_its_lens(tmp_path, changes):
    store = with_lens(tmp_path / "s")
    header = records.load(store.path / "actstore.json")
    making.change(store.path / "actstore.json", lens={**header["lens"], **changes})
    with pytest.raises(CorruptError, match="not a header of format 1"):
        actstore.open(store.path)


@pytest.mark.parametrize("missing", ["lens", "files"])
def test_a_lens_without_its_files_and_files_without_their_lens(tmp_path, missing):
    store = with_lens(tmp_path / "s")
    header = records.load(store.path / "actstore.json")
    header.pop("lens") if missing == "lens" else header["files"].pop("lens/bias.bin")
    (store.path / "actstore.json").write_bytes(records.dump(header))
    with pytest.raises(CorruptError, match="not a header of format 1"):
        actstore.open(store.path)


def test_numbers_that_no_lens_has_with_right_checksums(tmp_path):
    store = with_lens(tmp_path / "s")
    np.full(TOKENS, -np.inf, "<f4").tofile(store.path / "lens/bias.bin")
    header = records.load(store.path / "actstore.json")
    found = commits.File.of(store.path / "lens/bias.bin")
    making.change(store.path / "actstore.json", files={**header["files"], "lens/bias.bin": [found.size, found.crc32c]})
    with pytest.raises(CorruptError, match="bars every token"):
        _ = actstore.open(store.path).lens


def test_an_unembedding_that_cannot_be_kept_leaves_no_store(tmp_path):
    lens = made()
    lens.unembedding[4, 1] = np.nan
    with pytest.raises(actstore.ActstoreError, match="not finite in float32"):
        with_lens(tmp_path / "s", lens)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one: Lens(one.optics, one.weight[:-1], one.shift, one.bias, one.unembedding),
        lambda one: Lens(one.optics, one.weight * np.nan, one.shift, one.bias, one.unembedding),
        lambda one: Lens(one.optics, one.weight, one.shift, np.abs(one.bias), one.unembedding),
        lambda _: Optics("rmsnorm", 1e-5, 5, softcap=float("nan")),
    ],
)
def test_a_lens_that_is_none(wrong):
    with pytest.raises(actstore.ActstoreError):
        wrong(made())


def test_a_lens_of_another_width(tmp_path):
    with pytest.raises(actstore.ActstoreError, match="width 8, but d_model is 16"):
        with_lens(tmp_path / "s", made(d=8))
