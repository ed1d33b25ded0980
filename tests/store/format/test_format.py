import json
import math
import re
import runpy
import struct
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import actstore
import making
from actstore.format import names as numbers
from actstore.format import records, schema
from actstore.maintain import verify
from actstore.sql import overview

GOLDEN = Path(__file__).parents[2] / "golden" / "store-1.tar.xz"  # made once by making.golden
PAGE = (Path(actstore.__file__).parent / "FORMAT.md").read_text()


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN) as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_golden_store_is_read_forever(golden, dtype):
    store = actstore.open(golden / dtype)
    assert store.run == {"model": "tiny", "seed": 0}
    assert (store.layers, store.header.d_model, store.header.dtype, store.roles) == (
        (0, 1, 2),
        8,
        dtype,
        ["eoi", "image"],
    )
    rows = store.sql("from rows order by row_id")
    own = [name for name in schema.SAMPLES if name not in (*schema.KEY, *schema.LISTS)]
    assert rows.columns == [*schema.ROWS, *own, "label"]
    assert rows.select("row_id", "sample_id", "condition", "role", "k", "position", "place", "label").rows() == [
        (0, "b0s0", "none", "image", 0, 1, 0, "dog"),
        (1, "b0s0", "none", "eoi", 0, 3, 0, "dog"),
        (2, "b0s0", "none", "image", 1, 2, 1, "dog"),
        (3, "b0s1", "none", "image", 0, 1, 2, "cat"),
        (4, "b0s1", "none", "eoi", 0, 3, 1, "cat"),
        (5, "b0s1", "none", "image", 1, 2, 3, "cat"),
        (6, "b0s3", "none", "image", 0, 1, 4, "cat"),
        (7, "b0s3", "none", "eoi", 0, 3, 2, "cat"),
        (8, "b0s3", "none", "image", 1, 2, 5, "cat"),
        (4294967296, "b1s0", "none", "image", 0, 1, 0, "dog"),
        (4294967297, "b1s0", "none", "eoi", 0, 3, 0, "dog"),
        (4294967298, "b1s0", "none", "image", 1, 2, 1, "dog"),
        (4294967299, "b1s1", "none", "image", 0, 1, 2, "cat"),
        (4294967300, "b1s1", "none", "eoi", 0, 3, 1, "cat"),
        (4294967301, "b1s1", "none", "image", 1, 2, 3, "cat"),
        (4294967302, "b1s3", "none", "image", 0, 1, 4, "cat"),
        (4294967303, "b1s3", "none", "eoi", 0, 3, 2, "cat"),
        (4294967304, "b1s3", "none", "image", 1, 2, 5, "cat"),
    ]
    assert store.sql("select sample_id, error, length from samples where status = 'failed' order by all").rows() == [
        ("b0s2", "not an image", None),
        ("b1s2", "not an image", None),
    ]
    said = store.sql(
        "select top_tokens, top_probabilities, answer_probabilities from samples order by sample_id limit 3"
    )
    assert said.rows() == [([" dog", "a"], [0.5, 0.25], [0.125]), ([" dog", "a"], [0.5, 0.25], [0.125]), (None,) * 3]
    eoi = store.residual([7, 4294967297], 1)
    assert eoi[0].tolist() == [-4.0, -3.875, -3.75, -3.625, -3.5, -3.375, -3.25, -3.125]
    assert eoi[1].tolist() == [-0.875, -0.75, -0.625, -0.5, -0.375, -0.25, -0.125, 0.0]
    assert store.residual([8], 2)[0].tolist() == [-1.75, -1.625, -1.5, -1.375, -1.25, -1.125, -1.0, -0.875]
    values, samples = store.attention("eoi", 2)
    assert samples["sample_id"].to_list() == ["b0s0", "b0s1", "b0s2", "b0s3", "b1s0", "b1s1", "b1s2", "b1s3"]
    assert_array_equal(values[5], [[1.5, 1.5, np.nan, np.nan]] * 2)
    assert np.isnan(values[2]).all()
    assert store.vocabulary.rows() == [(1, "a"), (7, " dog")]
    (result,) = store.results()
    assert (result.measure, result.parameters) == ("count", {"k": 10})
    assert result.table().rows() == [("eoi", 6), ("image", 12)]
    assert verify.run(verify.steps(store.path)) == []


def test_the_golden_compacted_store_is_read_forever(golden):
    store = actstore.open(golden / "compacted")
    assert [(commit.name, commit.batches) for commit in store.commits] == [
        ("c00000000.json", (0, 1)),
        ("b00000002.json", (2,)),
    ]
    assert store.sql("select count(*) as n, count(distinct row_id) as ids, max(row_id) as last from rows").rows() == [
        (27, 27, (2 << 32) + 8)
    ]
    assert store.remaining == []
    assert store.residual([8, 4294967297], 2)[0].tolist() == [-1.75, -1.625, -1.5, -1.375, -1.25, -1.125, -1.0, -0.875]
    assert store.residual([8, 4294967297], 1)[1].tolist() == [-0.875, -0.75, -0.625, -0.5, -0.375, -0.25, -0.125, 0.0]
    assert verify.run(verify.steps(store.path)) == []


def test_the_golden_store_would_be_written_the_same_today(golden, tmp_path):
    """Records that differ only in names and times; shards bit for bit."""
    old, new = actstore.open(golden / "bfloat16"), making.store(tmp_path / "s", 2)
    for one, other in zip(old.parts, new.parts, strict=True):
        assert one.commit.arrays == other.commit.arrays
        assert one.rows().equals(other.rows())
        for name in one.commit.files:
            if "/c/" in name:
                assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()


# The page and the code say the same


def test_the_example_of_the_page(tmp_path, monkeypatch):
    store = making.store(tmp_path / "store")
    making.compact(store, 0, ["b00000000.json", "b00000001.json"])
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    found = runpy.run_path("example.py")["x"]
    rows = store.sql("from rows where role = 'eoi' and label = 'cat' order by row_id")
    assert found.shape == (6, 8)
    assert_array_equal(np.sort(found, axis=0), np.sort(store.residual(rows, 2), axis=0))


@pytest.mark.parametrize("columns", [schema.PLAN, schema.VOCABULARY, schema.ROWS, schema.SAMPLES], ids="PVRS")
def test_every_column_is_on_the_page(columns):
    kinds = {pl.Int32: "int32", pl.Int64: "int64", pl.String: "string", pl.Float32: "float32"}
    kinds |= {pl.List(kind): f"list of {name}" for kind, name in kinds.items()}
    for name, kind in columns.items():
        assert f"`{name}` {kinds[kind]}" in PAGE


def test_every_member_of_a_record_is_on_the_page(tmp_path):
    store = making.store(tmp_path / "s", 1)
    for path in ("actstore.json", "commits/b00000000.json"):
        for name in json.loads((store.path / path).read_bytes()):
            assert f"`{name}`" in PAGE or f"`{name}." in PAGE
    (spec, *_) = store.commits[0].arrays.values()
    assert all(f"`{name}`" in PAGE for name in spec.record())


@pytest.mark.parametrize(
    "pattern",
    [numbers.PART_NAME.pattern, numbers.COMMIT_NAME.pattern, numbers.ROLE_NAME.pattern.replace("?:", "")],
)
def test_every_pattern_is_on_the_page(pattern):
    assert f"`{pattern}`" in PAGE


def test_the_record_of_the_page():
    assert records.dump({"format": 1}) == b'{"format":1,"crc32c":"0fb4e832"}\n'
    assert '    {"format":1,"crc32c":"0fb4e832"}\n' in PAGE


def test_zarr_json(tmp_path):
    store = making.store(tmp_path / "s", 1)
    found = json.loads((store.parts[0].folder / "residual/image/zarr.json").read_text())
    assert found["data_type"] == "uint16"
    assert found["fill_value"] == 0x7FC0
    assert found["attributes"] == {"actstore": {"dtype": "bfloat16"}}
    assert found["dimension_names"] == ["layer", "row", "feature"]
    assert found["chunk_grid"]["configuration"] == {"chunk_shape": [3, 6, 8]}
    assert found["codecs"] == [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [1, 6, 8],
                "codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {
                        "name": "blosc",
                        "configuration": {
                            "typesize": 2,
                            "cname": "zstd",
                            "clevel": 1,
                            "shuffle": "shuffle",
                            "blocksize": 96,
                        },
                    },
                    {"name": "crc32c"},
                ],
                "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
                "index_location": "end",
            },
        }
    ]


# Number types


def _rounded(value):
    """bfloat16 of a float32 by exact arithmetic: the nearer of the two neighbours, the even one of a tie."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    if math.isnan(value):
        return 0x7FC0
    low, high = bits & 0xFFFF0000, (bits & 0xFFFF0000) + 0x10000
    below, above = bits - low, high - bits
    if below != above:
        return (low if below < above else high) >> 16
    return (low if (low >> 16) % 2 == 0 else high) >> 16


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (1.0, 0x3F80),
        (1.0 + 2**-8, 0x3F80),  # a tie goes to the even neighbour: down
        (1.0 + 3 * 2**-8, 0x3F82),  # and up
        (1.0 + 2**-8 + 2**-20, 0x3F81),
        (-3.3895313892515355e38, 0xFF7F),  # the largest
        (3.4e38, 0x7F80),  # rounds to infinity
        (1e-45, 0x0000),
        (-0.0, 0x8000),
        (math.nan, 0x7FC0),
    ],
)
def test_bfloat16_by_hand(value, bits):
    assert int(numbers.to_bfloat16(np.array([value]))[0]) == bits


@given(st.floats(width=32))
def test_bfloat16_rounds_to_nearest_even(value):
    assert int(numbers.to_bfloat16(np.array([value], np.float32))[0]) == _rounded(value)


def test_bfloat16_is_that_of_torch():
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    expected = torch.from_numpy(values).to(torch.bfloat16)
    assert_array_equal(numbers.to_bfloat16(values), expected.view(torch.uint16).numpy())
    assert_array_equal(numbers.from_bfloat16(numbers.to_bfloat16(values)), expected.float().numpy())


def test_every_bfloat16_comes_back():
    bits = np.arange(2**16, dtype=np.uint16)
    values = numbers.from_bfloat16(bits)
    back = numbers.to_bfloat16(values)
    assert_array_equal(back[~np.isnan(values)], bits[~np.isnan(values)])
    assert set(back[np.isnan(values)]) == {0x7FC0}
    assert_array_equal(numbers.DTYPES["bfloat16"].is_finite(bits), np.isfinite(values))


def test_fill_values_are_nan():
    for kind in numbers.DTYPES.values():
        assert np.isnan(kind.decode(np.array([kind.fill], kind.stored))).all()


def test_columns_of_the_small_views_are_plain():
    assert all(numbers.COLUMN_NAME.fullmatch(name) for name in [*overview.PARTS, *overview.RESULTS])
