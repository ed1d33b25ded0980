"""Stored vectors for torch, in real DataLoaders with real workers."""

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest
import torch
from torch.utils.data import DataLoader

import actstore
import making
from actstore import ActstoreError, Limits

QUERY = "select row_id, sample_id, label, k, position > 1 as late from rows order by hash(row_id)"
LAYER = 1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s", 5)


def seen(loader):
    """Row ids and vectors of an epoch, in its order."""
    batches = list(loader)
    return torch.cat([one["row_id"] for one in batches]), torch.cat([one["x"] for one in batches])


def right(store, ids, x):
    """Whether each row of the store is there once, with its vector."""
    everything = store.sql("from rows")
    assert sorted(ids.tolist()) == sorted(everything["row_id"].to_list())
    rows = pl.DataFrame({"row_id": ids.numpy()}).join(everything, on="row_id", maintain_order="left")
    assert x.dtype == torch.bfloat16
    assert torch.equal(x.float(), torch.from_numpy(making.expected(rows, LAYER)))
    return True


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_items_are_the_rows_in_their_order(tmp_path, dtype):
    store = making.store(tmp_path / "s", 2, dtype)
    rows = store.sql("from rows order by hash(row_id)")
    data = store.torch(rows, LAYER)
    assert data.x.dtype == getattr(torch, dtype)
    assert data.x.float().numpy().tolist() == making.expected(rows, LAYER).tolist()
    assert [int(item["row_id"]) for item in data] == rows["row_id"].to_list()
    both = store.torch(rows.to_pandas(), layers=[2, -3])
    assert both[3]["x"].float().tolist() == store.residual(rows[3:4], layers=[2, 0])[0].tolist()
    assert store.torch(rows["row_id"], -1).x.equal(store.torch(rows, 2).x)
    assert len(pickle.loads(pickle.dumps(data))) == rows.height


@pytest.mark.parametrize("columns", [("label", "k", "late"), ("sample_id",)])
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_columns_go_with_them(store, columns, kind):
    made = {"memory": store.torch, "stream": store.torch.stream}[kind](QUERY, LAYER, columns=columns)
    wanted = store.sql(QUERY).select("row_id", *columns)
    found = {name: [] for name in wanted.columns}
    for batch in DataLoader(made, batch_size=7):
        assert all(torch.is_tensor(batch[name]) for name in {"k", "late"} & {*columns})
        for name in found:
            found[name] += batch[name].tolist() if torch.is_tensor(batch[name]) else batch[name]
    assert pl.DataFrame(found).sort("row_id").rows() == wanted.sort("row_id").rows()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_row_once_and_the_same_in_every_run(store, workers):
    """Workers are forked from a process whose tables are at work."""
    forked = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    data = store.torch(QUERY, LAYER)
    orders = []
    for seed in (0, 0, 1):
        chance = torch.Generator().manual_seed(seed)
        ids, x = seen(DataLoader(data, batch_size=4, shuffle=True, generator=chance, **forked))
        assert right(store, ids, x)
        orders.append(ids.tolist())
    assert orders[0] == orders[1] != orders[2]
    streams = []
    for seed in (0, 0, 1, None):
        ids, x = seen(DataLoader(store.torch.stream(QUERY, LAYER, seed=seed, buffer=16), batch_size=4, **forked))
        assert right(store, ids, x)
        streams.append(ids.tolist())
    assert streams[0] == streams[1] != streams[2]
    assert (streams[3] == sorted(streams[3])) == (workers == 0)
    assert streams[0] != streams[3]


def test_epochs_differ_once_they_are_counted(store):
    stream = store.torch.stream(QUERY, LAYER, buffer=16)
    loader = DataLoader(stream, batch_size=4, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    orders = []
    for epoch in (0, 0, 1):
        stream.set_epoch(epoch)
        ids, x = seen(loader)
        assert right(store, ids, x)
        orders.append(ids.tolist())
    assert orders[0] == orders[1] != orders[2]


def test_a_stream_mixes_places(store):
    """Neighbours in the store do not stay neighbours, within what a worker holds."""
    ids = [int(item["row_id"]) for item in store.torch.stream(QUERY, LAYER, buffer=16)]
    place = {row: at for at, row in enumerate(sorted(ids))}
    steps = np.abs(np.diff([place[row] for row in ids]))
    assert (steps == 1).mean() < 0.25
    assert np.median(steps) > 4


def test_what_does_not_fit_is_streamed(store):
    small = actstore.open(store.path, limits=Limits(gigabytes=600e-9))  # 45 vectors of 8 numbers of 2 bytes: 720
    with pytest.raises(ActstoreError, match=r"45 vectors would take .* read them as they are used: store.torch.stream"):
        small.torch(store.sql(QUERY), LAYER)
    items = list(small.torch.stream(store.sql(QUERY), LAYER, buffer=16))
    assert right(store, torch.stack([one["row_id"] for one in items]), torch.stack([one["x"] for one in items]))


@pytest.mark.parametrize(
    ("rows", "options", "error"),
    [
        ("from rows", {"layer": 9}, "layer 9 is not in this store"),
        ("from rows", {}, "say one layer, or layers="),
        ("from rows limit 0", {"layer": 0}, "there are no rows"),
        ("from samples", {"layer": 0}, "no column row_id"),
        ("from rows", {"layer": 0, "columns": ["lable"]}, "no column 'lable'; did you mean 'label'"),
        ("from rows", {"layer": 0, "columns": ["error"]}, "column 'error' is NULL in 45 of 45 rows"),
        ("select row_id, [k] as ks from rows", {"layer": 0, "columns": ["ks"]}, "'ks' is of type List"),
        ("select row_id, k as x from rows", {"layer": 0, "columns": ["x"]}, "every item has 'x' of its own"),
        ([0, 1], {"layer": 0, "columns": "labels"}, "no column 'labels'; did you mean 'label'"),
    ],
)
@pytest.mark.parametrize("kind", ["memory", "stream"])
def test_one_clear_error(store, rows, options, error, kind):
    made = {"memory": store.torch, "stream": store.torch.stream}[kind]
    with pytest.raises(ActstoreError, match=error):
        made(rows, **options)


def test_vectors_of_an_image_that_comes_later_are_refused(tmp_path):
    plan = pl.DataFrame({"sample_id": ["a"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0, 1], d_model=2, dtype="float32", image_from=1)
    rows = pl.DataFrame({"sample_id": ["a", "a"], "role": ["image", "last"], "modality": ["image", "text"]})
    x = np.ones((2, 1, 2), np.float32)
    store.write(0, samples=plan, rows=rows, residual={"image": x * [[[np.nan]], [[1]]], "last": x})
    store = actstore.open(store.path)
    for made in (store.torch, lambda *words: list(store.torch.stream(*words))):
        assert len(made("from rows", 1)) == 2
        assert len(made("from rows where modality = 'text'", 0)) == 1
        with pytest.raises(ActstoreError, match="the vector of row_id 0 is NaN; leave such rows out"):
            made("from rows", 0)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_however_they_are_started(store, tmp_path, method):
    """In a script of its own: nothing is said on standard error, by DuckDB at the end of a worker for example."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import actstore, torch
            from torch.utils.data import DataLoader

            def epoch(data, **options):
                loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context={method!r}, **options)
                batches = list(loader)
                ids = torch.cat([one["row_id"] for one in batches])
                x = torch.cat([one["x"] for one in batches])
                assert x.dtype == torch.bfloat16
                assert torch.equal(x.float(), torch.from_numpy(store.residual(ids, 1)))
                assert batches[0]["label"][0] in ("cat", "dog")
                return ids.tolist()

            if __name__ == "__main__":
                store = actstore.open({str(store.path)!r})
                everything = store.sql("from rows")["row_id"].sort().to_list()
                memory = store.torch("from rows", 1, columns=["label"])
                stream = store.torch.stream("from rows", 1, columns=["label"], buffer=16)
                for data, options in ((memory, {{"shuffle": True}}), (stream, {{}})):
                    runs = []
                    for _ in range(2):
                        if options:
                            options["generator"] = torch.Generator().manual_seed(0)
                        runs.append(epoch(data, **options))
                    assert runs[0] == runs[1]
                    assert sorted(runs[0]) == everything and runs[0] != everything
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
