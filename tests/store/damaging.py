"""Stores with a file of each kind, what can happen to a file, and everything that a store gives out."""

import numpy as np
import polars as pl
from numpy.testing import assert_array_equal

import actstore
import making
from actstore.format.lens import Lens, Optics

# One file of each kind, of the second batch.
KINDS = {
    "header": "actstore.json",
    "plan": "plan.parquet",
    "vocabulary": "vocab.parquet",
    "norm": "lens/norm.bin",
    "unembedding": "lens/unembedding.bin",
    "record": "commits/b00000001.json",
    "rows": "parts/b00000001-*/rows.parquet",
    "samples": "parts/b00000001-*/samples.parquet",
    "metadata": "parts/b00000001-*/residual/eoi/zarr.json",
    "shard": "parts/b00000001-*/residual/eoi/c/0/0/0",
    "attention": "parts/b00000001-*/attention/eoi/c/0/0/0/0",
    "keys": "parts/b00000001-*/keys/image/c/0/0/0",
    "values": "parts/b00000001-*/values/image/c/0/0/0",
    "result": "results/count-*.parquet",
}
OTHER = {"record": "commits/b00000000.json", "result": "plan.parquet"} | {
    kind: pattern.replace("b00000001", "b00000000") for kind, pattern in KINDS.items() if pattern.startswith("parts")
}


def everything(path, batches, seed=0):
    """A store with a file of each kind; another seed gives files of other content."""
    norm, bias, *unembedding = np.random.default_rng(seed).standard_normal((9, 8)).astype(np.float32)
    lens = Lens(Optics("rmsnorm", 1e-5, 7), norm, bias, np.zeros(7, np.float32), np.stack(unembedding))
    plan = making.plan(batches).with_columns(pl.col("sample_id") + "x" * seed)
    options = {"run": {"model": "tiny", "seed": seed}, "vocabulary": {1: "a" + "b" * seed}}
    layout = {"layers": making.LAYERS, "d_model": making.D_MODEL, "blocks": making.BLOCKS}
    store = actstore.create(path, plan=plan, lens=lens, **layout, **options)
    for batch in range(batches):
        store.write(batch, **_of(making.kv_content(batch), seed))
    store.save_result("count", pl.DataFrame({"n": [1 + seed]}), {})
    return store.path


def _of(content, seed):
    """The content of a batch, its numbers shifted and its samples renamed."""
    tables = {name: content[name].with_columns(pl.col("sample_id") + "x" * seed) for name in ("samples", "rows")}
    kinds = ("residual", "keys", "values", "attention")
    return tables | {kind: {name: array + seed for name, array in content[kind].items()} for kind in kinds}


def the(path, pattern):
    (found,) = path.glob(pattern)
    return found


def read_all(path):
    """Everything that a store gives out."""
    store = actstore.open(path)
    rows = store.sql("from rows order by row_id")
    tables = [store.sql(f"from {view} order by all") for view in ("samples", "plan", "vocab", "parts", "results")]
    results = [result.table() for result in store.results()]
    prefix = pl.col("role") == "prefix"  # which has keys and values, and no residual vectors
    vectors = [store.residual(rows.filter(~prefix), layer) for layer in store.layers]
    vectors += [read(rows.filter(prefix), block) for block in making.BLOCKS for read in (store.keys, store.values)]
    vectors += [read(rows.filter(role="image"), 1) for read in (store.keys, store.values)]
    attention = [store.attention("eoi", layer) for layer in store.layers]
    lens = store.lens
    logits = lens.logits(lens.normed(vectors[0]))
    return [store.run, rows, *tables, *results, *vectors, *attention, logits]


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, np.ndarray):
            assert_array_equal(one, other)
        elif isinstance(one, tuple):
            assert_array_equal(one.values, other.values)
        elif isinstance(one, pl.DataFrame):
            assert one.equals(other)
        else:
            assert one == other
    return True


def truncate(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"\0")


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def delete(file):
    file.unlink()


def link(file):
    target = file.with_name("elsewhere")
    file.rename(target)
    file.symlink_to(target)


def stale(file):
    """The file of the same kind of another store, whose model, plan and numbers are other ones."""
    (other,) = _strangers(file).glob(_pattern(file))
    content = other.read_bytes()
    assert content != file.read_bytes()
    file.write_bytes(content)


def swap(file):
    """The file and another of its kind, of the first batch, exchanged; where there is one only, that of a stranger."""
    others = [other for other in _root(file).glob(_pattern(file, "b00000000")) if other != file]
    if not others:
        stale(file)
        return
    content, other = file.read_bytes(), others[0]
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def foreign(file):
    """The index of a store with other numbers."""
    file.write_bytes(actstore.open(_strangers(file)).write_index().read_bytes())


def _root(file):
    return next(folder for folder in file.parents if (folder / "commits").is_dir())


def _pattern(file, batch="b00000001"):
    (kind,) = [kind for kind, pattern in KINDS.items() if file in _root(file).glob(pattern)]
    if kind == "metadata":  # that of the same role is the same
        return KINDS[kind].replace("eoi", "image")
    return KINDS[kind].replace("b00000001", batch)


def _strangers(file):
    """A store with the same kinds of files and nothing equal, made once."""
    path = _root(file).parent.parent / "stranger"
    if not path.exists():
        everything(path, 3, seed=1)
    return path


DAMAGES = [truncate, empty, lengthen, flip, delete, link, stale, swap]
