"""Sums in pieces: cut by the store alone, added in their order, read once; the same table whoever computes them."""

import random
import re
from collections import Counter
from concurrent.futures import Executor, Future

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import actstore
import leading
from actstore.errors import ActstoreWarning, UndefinedError
from actstore.format import layout
from actstore.maintain.compaction import compact
from actstore.maintain.pushing import push
from actstore.read import mirror
from actstore_analyze.attention.study import CrossModal
from actstore_analyze.cka.measure import COLUMNS
from actstore_analyze.cka.study import Cka
from actstore_analyze.gap.study import Gap
from actstore_analyze.outliers.measure import Magnitudes
from actstore_analyze.outliers.study import Outliers
from actstore_analyze.sae.study import Rebuilt
from actstore_analyze.study import held, pieces, summed
from buckets import bucket
from clusters import cluster
from leading import URL
from scoped import wide

PARTS, SAMPLES, LAYERS, D, KEYS = 6, 5, (0, 1, 2, 4), 8, 9
ROLES = {"eoi": 1, "image": 3}
SIDES = {"text": "role = 'eoi'", "image": "role = 'image'", "pairs": "all", "center": True, "layers": (1, 4)}
MEASURES = {
    "outliers": (Outliers, {}),
    "attention": (CrossModal, {"layers": LAYERS[:-1]}),
    "gap": (Gap, SIDES),
    "cka": (Cka, {"roles": ["image"], "positions": 2, "with_role": "eoi"}),
    "sae": (Rebuilt, {"roles": ["image"], "layers": [1]}),
}
ROUNDING = {"sae": 1e-4}  # products of other numbers of float32 vectors


def saes(path):
    """Where the autoencoders of a store are."""
    return path.with_name("saes")


def make(path):
    """PARTS of SAMPLES, whose numbers are of many magnitudes: the order of a sum shows in its last digits.

    Beside it autoencoders of the outputs of the first two blocks.
    """
    for block in (0, 1):
        (saes(path) / f"layer_{block}").mkdir(parents=True)
        np.savez(saes(path) / f"layer_{block}" / "params.npz", **wide(0.5, D, 20))
    names = [f"s{i:02}" for i in range(PARTS * SAMPLES)]
    plan = pl.DataFrame({"batch": np.repeat(np.arange(PARTS), SAMPLES), "sample_id": names})
    store = actstore.create(path, plan=plan, layers=LAYERS, d_model=D, dtype="float32", run={"n_layers": 4})
    rng = np.random.default_rng(0)
    for number in range(PARTS):
        own = plan.filter(pl.col("batch") == number)["sample_id"].to_list()
        rows = [(name, role, k) for role, many in ROLES.items() for name in own for k in range(many)]
        samples = pl.DataFrame(
            {"sample_id": own, "status": "ok", "length": KEYS + 2, "image_start": 2, "eoi": KEYS - 1}
        )
        of = (len(LAYERS), SAMPLES)
        store.write(
            number,
            samples=samples.with_columns(image_end=pl.lit(KEYS - 2)),
            rows=pl.DataFrame(rows, schema=["sample_id", "role", "k"], orient="row"),
            residual={
                role: rng.lognormal(0, 3, (*of[:1], SAMPLES * many, D)).astype(np.float32)
                for role, many in ROLES.items()
            },
            attention={"mass": rng.lognormal(0, 3, (*of, KEYS)).astype(np.float32)},
        )
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("parted") / "s")


@pytest.fixture(scope="module")
def store(path):
    return actstore.open(path)


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A piece of each part, nearly; what is kept, in a folder of its own."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 600)
    monkeypatch.setattr(pieces, "MOST", 10**9)
    monkeypatch.setattr("actstore_analyze.gap.study.PART_BYTES", 4 * D * 25)
    monkeypatch.setattr("actstore_analyze.cka.study.BLOCK_BYTES", 2 * len(LAYERS) * (5 * D + 16 * COLUMNS) * 4)
    monkeypatch.setattr("actstore_analyze.sae.study.MOST_STATES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def asked(store, name, **more):
    study, options = MEASURES[name]
    beside = {"saes": str(saes(store.path))} if name == "sae" else {}
    return study.of(store, **beside, **options, **more)


def table(store, name, **more):
    return asked(store, name, **more).table(store, say=lambda _: None)


def cut(store, name):
    study = asked(store, name)
    return study.pieces(store, study.units(store, say=lambda _: None))


class Late(Executor):
    """Does nothing until all is asked for; then it begins anywhere."""

    def __init__(self):
        self.calls = []

    def submit(self, function, /, *arguments):
        self.calls.append((future := Future(), function, arguments))
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        pass

    def go(self, seed):
        random.Random(seed).shuffle(self.calls)
        for future, function, arguments in self.calls:
            future.set_result(function(*arguments))


@pytest.mark.parametrize("name", MEASURES)
def test_who_computes_what_and_when_makes_no_bit_of_a_difference(store, name, monkeypatch):
    alone = table(store, name)
    assert len(cut(store, name)) >= PARTS - 2
    for seed in range(3):
        late = Late()

        def wait(left, late=late, seed=seed, **_):
            late.go(seed), late.calls.clear()
            return {*left}, set()

        monkeypatch.setattr("actstore_analyze.study.executor.wait", wait)
        assert table(store, name, executor=late).equals(alone)


@pytest.mark.slow
def test_workers_of_dask_give_the_same_bits(store):
    with cluster(2) as dask:
        for name in MEASURES:
            assert table(store, name, executor=dask.url).equals(table(store, name))


@pytest.mark.parametrize("asked", [{"jobs": 2}, pytest.param({"jobs": 3}, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MEASURES)
def test_processes_give_the_same_bits(store, name, asked):
    assert table(store, name, **asked).equals(table(store, name))


@pytest.mark.parametrize("name", MEASURES)
def test_the_same_rows_in_other_parts_differ_by_rounding_alone(store, name, tmp_path):
    other = actstore.open(make(tmp_path / "s"))
    list(compact(other.path))
    other = actstore.open(other.path)
    assert len(other.parts) < PARTS
    rounding = ROUNDING.get(name, 1e-12)
    assert_frame_equal(table(other, name), table(store, name), rel_tol=rounding, abs_tol=0)


def test_outliers_are_those_of_numpy(store):
    found = table(store, "outliers")
    for role in ROLES:
        rows = store.sql(f"from rows where role = '{role}'")
        for layer in LAYERS:
            (own,) = found.filter((pl.col("role") == role) & (pl.col("layer") == layer)).to_dicts()
            x = store.residual(rows, layer).astype(np.float64)
            norms = np.linalg.norm(x, axis=1)
            expected = [*np.quantile(norms, [0.25, 0.5, 0.75]), norms.max()]
            assert [own[one] for one in ("norm_q25", "norm_median", "norm_q75", "norm_max")] == pytest.approx(expected)
            assert own["top_share"] == pytest.approx(((x**2).sum(axis=0) / (x**2).sum()).max())
            assert own["n"] == len(x)


def test_attention_is_that_of_numpy(store):
    found = table(store, "attention", threshold=0.0)
    for layer in LAYERS[:-1]:
        own = found.filter(pl.col("layer") == layer).drop_nulls("position").sort("position")
        each = np.concatenate([part.array("attention/mass").layer(LAYERS.index(layer)) for part in store.parts])
        mass = each[:, 2:].astype(np.float64)
        shares = mass.sum(axis=0) / mass.sum()
        assert own["share"].to_list() == pytest.approx(shares[own["position"].to_numpy() - 2].tolist())


def _files(store, rows, layers):
    per_file = store.parts[0].commit.arrays["residual/image"].shards[0]
    return {(part, store.header.layer_index(layer) // per_file) for part in pieces.part_of(store, rows).tolist()
            for layer in layers}  # fmt: skip


@pytest.mark.parametrize("most", [1, 500, 3000, 10**6])
@pytest.mark.parametrize("block", [64, 10**6])
@pytest.mark.parametrize("shard", [100, 1000, 10**6])
def test_pieces_hold_everything_once_and_no_more_than_they_may(tmp_path, monkeypatch, most, block, shard):
    layout._layout_of.cache_clear()
    monkeypatch.setattr(layout, "SHARD_BYTES", shard)
    monkeypatch.setattr(pieces, "BLOCK_BYTES", block)
    store = actstore.open(make(tmp_path / "s"))
    row_ids = store.sql("select row_id from rows where role = 'image' order by hash(row_id) limit 70")["row_id"]
    layers = [4, 0, 2]
    found = [*pieces.cut(store, "image", row_ids.to_numpy(), layers, most)]
    each = Counter((row, layer) for rows, own in found for row in rows.tolist() for layer in own)
    assert each == Counter((row, layer) for row in row_ids for layer in layers)
    layout._layout_of.cache_clear()
    for rows, own in found:
        of_layer = 4 * D * len(rows)
        is_file = len(_files(store, rows, own)) == 1 and of_layer <= block
        assert of_layer * len(own) <= most or is_file or (len(own) == 1 and of_layer <= max(block, 4 * D))
    if block == 10**6:  # every file is read once
        read = Counter(file for rows, own in found for file in _files(store, rows, own))
        assert {*read.values()} == {1}


def test_a_large_store_has_some_hundred_pieces(monkeypatch):
    monkeypatch.undo()
    assert pieces.size(10**6) == pieces.PIECE_BYTES
    assert 2 * 10**12 // pieces.size(2 * 10**12) == pieces.MOST


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ["outliers", "cka"])
def test_a_call_that_was_interrupted_goes_on(store, monkeypatch, name):
    """With the pieces that are left, and to the same bits."""
    alone, all_of_them = table(store, name), len(cut(store, name))
    study, computed = MEASURES[name][0], []
    states = study.states

    def counted(self, own, piece):
        computed.append(piece)
        if len(computed) == 4 and stop:
            raise StoppedError
        return states(self, own, piece)

    monkeypatch.setattr(study, "states", counted)
    stop = True
    with pytest.raises(StoppedError):
        table(store, name)
    stop = False
    computed.clear()
    with pytest.warns(ActstoreWarning, match=f"3 of {all_of_them} units were done"):
        assert table(store, name).equals(alone)
    assert len(computed) == all_of_them - 3


def test_states_of_a_long_call_lie_on_the_disk(store, monkeypatch, tmp_path):
    alone = table(store, "outliers")
    monkeypatch.setattr("actstore_analyze.study.kept.SECONDS", -1.0)
    most = []
    read = summed._unpacked

    def seen(packed, state_of):
        most.append(len([*(tmp_path / "cache").rglob("*.npz")]))
        return read(packed, state_of)

    monkeypatch.setattr(summed, "_unpacked", seen)
    assert table(store, "outliers").equals(alone)
    assert max(most) == len(cut(store, "outliers"))
    assert not [*(tmp_path / "cache").rglob("*.npz")]


def test_what_holds_nothing_stays_so():
    """In whichever piece it is; the others of the unit count no more."""
    some, nothing = Magnitudes.of(np.ones((2, 3))), held.NothingHeldError("not yet")
    for order in ([some, nothing, some], [nothing, some], [some, nothing]):
        found = {}
        for one in order:
            summed.add(found, 0, one)
        assert found == {0: nothing}  # the first that was missing
    packed = summed._packed(lambda *_: {3: some, 4: nothing, 5: UndefinedError("zero")}, None, None)
    own = summed._unpacked(packed, Magnitudes)
    assert [(type(own[number]), str(own[number])) for number in (4, 5)] == [
        (held.NothingHeldError, "not yet"), (UndefinedError, "zero"),
    ]  # fmt: skip
    np.testing.assert_array_equal(own[3].norms, some.norms)


@pytest.fixture
def far(path, tmp_path, monkeypatch):
    """The store in a bucket; the disk has no room for vectors."""
    with bucket() as served:
        leading.point(monkeypatch, served, tmp_path / "cache")
        push(path, URL)
        monkeypatch.setattr(mirror, "ROOM", 1e30)
        opened = actstore.open(URL)
        opened.sql("from rows"), opened.sql("from samples")
        served.took()
        yield opened, served


def arrays(served):
    """How often each array of a part was asked for."""
    keys = [key for method, key in served.took() if method == "GET"]
    assert all(re.search(r"parts/[^/]+/(residual|attention)/\w+/c/", key) for key in keys), keys
    return Counter(re.sub(r"/c/.*", "", key) for key in keys)


def test_outliers_of_all_layers_read_each_part_once(store, far):
    """One request for each role of a part, whose file holds all of the layers."""
    opened, served = far
    found = table(opened, "outliers")
    read = arrays(served)
    assert (len(read), {*read.values()}) == (PARTS * len(ROLES), {1})
    assert found.equals(table(store, "outliers"))


def test_autoencoders_read_each_layer_of_a_part_once(store, path, far):
    """And its index; the pieces are of a part each."""
    opened, served = far
    found = Rebuilt.of(opened, saes=str(saes(path)), roles=["image"])
    layers = len(found.layers)
    assert found.table(opened, say=print).equals(found.table(store, say=print))
    read = arrays(served)
    assert (len(read), {*read.values()}) == (PARTS, {layers + 1})


def test_attention_of_all_layers_reads_each_part_twice(store, far, monkeypatch):
    """For the shares, and for their intervals; of the first part besides, both times, which blocks have attention."""
    opened, served = far
    monkeypatch.setattr(mirror, "SMALL", 2**20)  # three of four layers are nearly all of a file
    found = table(opened, "attention")
    read = arrays(served)
    assert len(read) == PARTS
    assert found.equals(table(store, "attention"))
    assert sorted(read.values()) == [*[2] * (PARTS - 1), 4]


def test_cka_of_all_layers_reads_each_part_once(store, far, monkeypatch):
    """Where a role's samples are one block."""
    monkeypatch.setattr("actstore_analyze.cka.study.BLOCK_BYTES", 2**30)
    opened, served = far
    options = {"roles": ["image"], "positions": 1}
    found = Cka.of(opened, **options).table(opened, say=lambda _: None)
    assert {*arrays(served).values()} == {1}
    assert found.equals(Cka.of(store, **options).table(store, say=lambda _: None))


def test_gap_of_several_layers_reads_each_part_once_a_pass(store, far, monkeypatch):
    """For the mean, the counts and the intervals; to the bits of layers that are read apart."""
    monkeypatch.setattr("actstore_analyze.gap.study.PART_BYTES", 2**28)
    monkeypatch.setattr(mirror, "SMALL", 2**20)  # two of four layers are nearly all of a file
    opened, served = far
    found = table(opened, "gap")
    assert {*arrays(served).values()} == {3}
    monkeypatch.setattr("actstore_analyze.gap.study.MOST_LAYERS", 1)
    assert found.equals(table(store, "gap"))
