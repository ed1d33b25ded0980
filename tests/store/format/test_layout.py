import json

import msgspec
import numpy as np
import pytest

from actstore.errors import ActstoreError
from actstore.format.layout import ATTENTION, MASS, RESIDUAL, ArraySpec
from actstore.read.arrays import ArrayReader, checksums
from actstore.write.arrays import write


@pytest.mark.parametrize(
    ("shape", "dtype", "chunks", "shards"),
    [
        ((33, 512, 4096), "bfloat16", (1, 128, 4096), (32, 512, 4096)),
        ((33, 512, 4096), "float32", (1, 64, 4096), (16, 512, 4096)),
        ((33, 10_000, 4096), "bfloat16", (1, 128, 4096), (1, 10_112, 4096)),
        ((33, 1, 4096), "bfloat16", (1, 1, 4096), (33, 1, 4096)),
        ((33, 129, 4096), "bfloat16", (1, 128, 4096), (33, 256, 4096)),
        ((3, 5, 2**20), "bfloat16", (1, 1, 2**20), (3, 5, 2**20)),  # a row larger than a chunk
        ((2, 3, 2**26), "bfloat16", (1, 1, 2**26), (1, 3, 2**26)),  # a layer larger than a shard
    ],
)
def test_chunks_and_shards_follow_from_the_shape(shape, dtype, chunks, shards):
    spec = ArraySpec.of(shape, dtype, RESIDUAL)
    assert (spec.chunks, spec.shards) == (chunks, shards)


@pytest.mark.parametrize(
    ("shape", "dimensions", "chunks"),
    [((32, 2048, 32, 40), ATTENTION, (1, 409, 32, 40)), ((32, 2048, 1034), MASS, (1, 507, 1034))],
)
def test_attention_is_cut_by_samples(shape, dimensions, chunks):
    assert ArraySpec.of(shape, "float16", dimensions).chunks == chunks


@pytest.mark.parametrize("shape", [(3, 0, 8), (0, 3, 8), (3, 2, 0), (3,)])
def test_an_empty_shape_has_no_layout(shape):
    with pytest.raises(ActstoreError, match="empty axis"):
        ArraySpec.of(shape, "bfloat16", RESIDUAL)


def test_files_and_places_of_chunks():
    spec = ArraySpec.of((33, 512, 4096), "bfloat16", RESIDUAL)
    assert spec.paths() == ("zarr.json", "c/0/0/0", "c/1/0/0")
    assert (spec.chunks_per_layer, spec.chunks_per_shard, spec.n_chunks) == (4, 128, 132)
    assert (spec.shard_of(31), spec.index_in_shard(31, 3)) == ("c/0/0/0", 127)
    assert (spec.shard_of(32), spec.index_in_shard(32, 1)) == ("c/1/0/0", 1)


def _record():
    return {
        "shape": [3, 2, 8],
        "dtype": "bfloat16",
        "chunks": [1, 2, 8],
        "shards": [3, 2, 8],
        "dimensions": ["layer", "row", "feature"],
        "chunk_crc32c": "0123456789abcdef76543210",
    }


def test_record_round_trip():
    spec = msgspec.convert(_record(), ArraySpec)
    assert spec.problem() is None
    assert json.loads(json.dumps(spec.record())) == _record()
    assert spec.checksum(1, 0) == bytes.fromhex("efcdab89")  # little-endian, as it stands behind the chunk


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"chunks": [1, 1, 8]}, r"chunks \(1, 1, 8\) in shards \(3, 2, 8\), not \(1, 2, 8\) in \(3, 2, 8\)"),
        ({"shards": [2, 2, 8]}, r"not \(1, 2, 8\) in \(3, 2, 8\)"),
        ({"shape": [3, 2]}, r"not \(1, 2\) in \(3, 2\)"),
        ({"shape": [3, -2, 8]}, "an empty axis"),
        ({"shape": [10**9, 10**9, 10**10]}, "a chunk holds"),
        ({"shape": [3.0, 2, 8]}, r"Expected `int`, got `float` - at `\$.shape\[0\]`"),
        ({"dtype": "object"}, "dtype 'object' is not one of"),
        ({"dtype": None}, r"Expected `str`, got `null` - at `\$.dtype`"),
        ({"dimensions": "layer"}, "Expected `array`, got `str`"),
        ({"chunk_crc32c": "0123456789abcdef"}, "no eight digits of crc32c for each of 3 chunks"),
        ({"chunk_crc32c": ""}, "no eight digits"),
        ({"chunk_crc32c": "zzzzzzzz" * 3}, "non-hexadecimal"),
        ({"chunk_crc32c": "0123456789ABCDEF76543210"}, "no eight digits"),
        ({"chunk_crc32c": "0123 4567 89abcdef76543210"}, "no eight digits"),
        ({"codec": "pickle"}, "unknown field `codec`"),
    ],
)
def test_a_strange_layout_is_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        raise ValueError(msgspec.convert(_record() | change, ArraySpec).problem())


def test_many_layers_make_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("actstore.format.layout.CHUNK_BYTES", 64)
    monkeypatch.setattr("actstore.format.layout.SHARD_BYTES", 512)
    values = np.arange(7 * 9 * 8, dtype=np.float32).reshape(7, 9, 8) / 8
    spec = write(tmp_path, "residual/eoi", values, "float32", RESIDUAL)
    assert (spec.chunks, spec.shards) == ((1, 2, 8), (1, 10, 8))
    assert sorted(path.name for path in (tmp_path / "residual/eoi/c").iterdir()) == list("0123456")
    reader = ArrayReader(tmp_path, "residual/eoi", spec)
    np.testing.assert_array_equal(np.stack([reader.layer(layer) for layer in range(7)]), values)
    assert checksums(tmp_path / "residual/eoi", spec) == spec.chunk_crc32c
    assert len(spec.chunk_crc32c) == 8 * 7 * 5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    "places",
    [range(9), range(8, -1, -1), [3, 3, 5], [0, 0, 2], [4], [2, 3, 4, 5], [8, 0, 4, 4], range(0, 9, 2), []],
    ids=str,
)
def test_vectors_are_taken_in_any_order(tmp_path, monkeypatch, places, dtype):
    """Runs of places and of targets are copied another way than others; [3, 3, 5] only looks like one."""
    monkeypatch.setattr("actstore.format.layout.CHUNK_BYTES", 64)
    values = np.arange(2 * 9 * 8, dtype=np.float32).reshape(2, 9, 8)
    reader = ArrayReader(tmp_path, "residual/eoi", write(tmp_path, "residual/eoi", values, dtype, RESIDUAL))
    chosen = np.array(places, np.int64)
    for targets in (np.arange(len(chosen)) + 1, np.arange(len(chosen))[::-1].copy(), 2 * np.arange(len(chosen))):
        out = np.full((20, 8), -1, np.float32)
        reader.take([1], chosen, [out], targets)
        expected = np.full((20, 8), -1, np.float32)
        expected[targets] = values[1, chosen]
        np.testing.assert_array_equal(out, expected)


def test_the_last_shard_may_hold_fewer_layers(tmp_path, monkeypatch):
    monkeypatch.setattr("actstore.format.layout.CHUNK_BYTES", 64)
    monkeypatch.setattr("actstore.format.layout.SHARD_BYTES", 800)
    values = np.arange(5 * 9 * 8, dtype=np.float32).reshape(5, 9, 8) / 8
    spec = write(tmp_path, "residual/eoi", values, "float32", RESIDUAL)
    assert spec.shards == (2, 10, 8)
    reader = ArrayReader(tmp_path, "residual/eoi", spec)
    np.testing.assert_array_equal(np.stack([reader.layer(layer) for layer in range(5)]), values)


@pytest.mark.parametrize("value", [np.nan, 0.0])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_chunks_of_one_value_are_written_like_any_other(tmp_path, dtype, value):
    """Zarr would leave out a chunk of fill values, which could not be told from one that was lost."""
    values = np.full((2, 3, 4), value, np.float32)
    spec = write(tmp_path, "attention/mass", values, dtype, MASS)
    assert (tmp_path / "attention/mass/c/0/0/0").stat().st_size > 2 * 16 + 4
    np.testing.assert_array_equal(ArrayReader(tmp_path, "attention/mass", spec).layer(1), values[1])
