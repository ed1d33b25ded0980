import os
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import actstore
import making
from actstore import ActstoreError, AlreadyCommittedError, PlanError
from actstore.maintain import verify
from actstore.write import drafts
from actstore.write.drafts import Draft

PLAN = pl.DataFrame({"sample_id": ["a", "b"], "label": ["cat", "dog"]})


def test_a_new_store_holds_its_plan_and_nothing_else(tmp_path):
    store = actstore.create(tmp_path / "runs" / "new", plan=PLAN, layers=[0, 4], d_model=8, run={"model": "m"})
    assert repr(store) == f"<Store {tmp_path}/runs/new: 0 of 1 batches, layers 0, 4>"
    assert (store.remaining, store.roles, store.run) == ([0], [], {"model": "m"})
    assert store.sql("select batch, sample_id, condition, label from plan").rows() == [
        (0, "a", "none", "cat"),
        (0, "b", "none", "dog"),
    ]
    assert sorted(path.name for path in store.path.iterdir()) == [
        "actstore.json",
        "commits",
        "parts",
        "plan.parquet",
        "results",
        "vocab.parquet",
    ]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["new"]


def test_without_batches_a_plan_is_cut_into_parts(tmp_path):
    plan = pl.DataFrame({"sample_id": [str(number) for number in range(5000)]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=1)
    assert store.plan.group_by("batch", maintain_order=True).len().rows() == [(0, 2048), (1, 2048), (2, 904)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"plan": PLAN.drop("sample_id")}, PlanError, "no column sample_id"),
        ({"plan": pl.concat([PLAN, PLAN])}, PlanError, r"sample 'a' \(condition 'none'\) is in the plan twice"),
        ({"plan": PLAN.clear()}, PlanError, "the plan is empty"),
        ({"plan": PLAN.with_columns(batch=None)}, PlanError, "has a NULL in batch"),
        ({"plan": PLAN.with_columns(batch=-1)}, PlanError, r"a batch outside 0\.\.99999999"),
        ({"plan": PLAN.with_columns(batch=10**8)}, PlanError, r"a batch outside 0\.\.99999999"),
        ({"plan": PLAN.with_columns(role=1)}, ActstoreError, "column 'role' of the plan: the store uses this name"),
        ({"plan": PLAN.rename({"label": "Label"})}, ActstoreError, "column 'Label' of the plan: use lower-case"),
        ({"layers": []}, ActstoreError, "an empty list; say at least one"),
        ({"layers": [1, 0]}, ActstoreError, "not ascending"),
        ({"layers": [-1, 0]}, ActstoreError, "not ascending"),
        ({"d_model": 0}, ActstoreError, "d_model 0 is not a width"),
        ({"dtype": "bfloat"}, ActstoreError, "dtype 'bfloat' is not one of .*did you mean 'bfloat16'"),
        ({"run": {"seed": float("nan")}}, ActstoreError, "the run card is not JSON"),
        ({"run": {"path": object()}}, ActstoreError, "the run card is not JSON"),
    ],
)
def test_what_no_store_is_made_of(tmp_path, change, error, message):
    options = {"plan": PLAN, "layers": [0, 1], "d_model": 8, **change}
    with pytest.raises(error, match=message):
        actstore.create(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ActstoreError, match="exists already; open it, or choose another folder"):
        actstore.create(tmp_path, plan=PLAN, layers=[0], d_model=1)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_empty_folder_may_be_filled(tmp_path):
    assert actstore.create(tmp_path, plan=PLAN, layers=[0], d_model=1).remaining == [0]


def test_files_of_a_part(tmp_path):
    commit = making.create(tmp_path / "s").write(1, **making.content(1), by={"host": "here"})
    assert (commit.name, commit.batches, commit.rows, commit.samples, commit.by) == (
        "b00000001.json",
        (1,),
        9,
        4,
        {"host": "here"},
    )
    folder = tmp_path / "s" / "parts" / commit.part
    assert re.fullmatch(r"b00000001-[0-9a-f]{8}", commit.part)
    assert sorted(commit.files) == [path.relative_to(folder).as_posix() for path in making.files(folder)]
    assert set(commit.files) == {
        "attention/eoi/c/0/0/0/0",
        "attention/eoi/zarr.json",
        "residual/eoi/c/0/0/0",
        "residual/eoi/zarr.json",
        "residual/image/c/0/0/0",
        "residual/image/zarr.json",
        "rows.parquet",
        "samples.parquet",
    }
    assert commit == actstore.open(tmp_path / "s").commits[0]


def test_row_ids_places_and_k(tmp_path):
    store = making.store(tmp_path / "s")
    rows = store.parts[1].rows().select("row_id", "sample_id", "role", "k", "place")
    assert rows.rows()[:4] == [
        (1 << 32, "b1s0", "image", 0, 0),
        ((1 << 32) + 1, "b1s0", "eoi", 0, 0),
        ((1 << 32) + 2, "b1s0", "image", 1, 1),
        ((1 << 32) + 3, "b1s1", "image", 0, 2),
    ]


def test_a_batch_of_failed_samples(tmp_path):
    store = actstore.create(tmp_path / "s", plan=PLAN, layers=[0], d_model=8)
    failed = pl.DataFrame({"sample_id": ["b", "a"], "status": ["failed"] * 2, "error": ["no image", "too long"]})
    store.write(0, samples=failed, rows=pl.DataFrame(schema={"sample_id": pl.String}), residual={})
    store = actstore.open(store.path)
    assert store.sql("select sample_id, status, error, label from samples order by all").rows() == [
        ("a", "failed", "too long", "cat"),
        ("b", "failed", "no image", "dog"),
    ]
    assert store.sql("from rows").height == 0
    assert verify.run(verify.steps(store.path)) == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"samples": making.content(1)["samples"]},
            PlanError,
            "the samples given for batch 0 are not those of the plan",
        ),
        ({"samples": making.content(0)["samples"][:3]}, PlanError, "not those of the plan"),
        ({"samples": pl.concat([making.content(0)["samples"]] * 2)}, PlanError, "not those of the plan"),
        ({"samples": making.content(0)["samples"].with_columns(sample_id=None)}, ActstoreError, "has no sample_id"),
        (
            {"samples": making.content(0)["samples"].with_columns(status=pl.lit("done"))},
            ActstoreError,
            "status 'done' of a sample is not one of ok, failed",
        ),
        (
            {"samples": making.content(0)["samples"].rename({"length": "lenght"})},
            ActstoreError,
            "samples has no column 'lenght'; did you mean 'length'",
        ),
        (
            {"rows": making.content(0)["rows"].with_columns(position=pl.lit("x"))},
            ActstoreError,
            "rows: .*conversion",
        ),
        (
            {"rows": making.content(0)["rows"].with_columns(sample_id=pl.lit("b0s2"))},
            ActstoreError,
            "rows of sample 'b0s2', which is not an ok sample of batch 0",
        ),
        ({"rows": making.content(0)["rows"].with_columns(role=pl.lit("../eoi"))}, ActstoreError, "role '../eoi': use"),
        ({"rows": making.content(0)["rows"].with_columns(role=None)}, ActstoreError, "role None: use"),
        ({"residual": {"eoi": making.vectors(0, "eoi")}}, ActstoreError, r"rows of roles .*'image'.*, but vectors"),
        (
            {"residual": making.content(0)["residual"] | {"eoi": making.vectors(0, "image")}},
            ActstoreError,
            r"vectors of role 'eoi' have shape \(3, 6, 8\); expected \(3, 3, 8\)",
        ),
        (
            {"residual": making.content(0)["residual"] | {"eoi": np.ones((3, 3, 8), int)}},
            ActstoreError,
            "an array of int64: give floats",
        ),
        ({"attention": {"eoi": np.ones((3, 3, 1, 2))}}, ActstoreError, r"attention 'eoi' has shape \(3, 3, 1, 2\)"),
        ({"attention": {"eoi": np.ones((3, 4, 1, 0))}}, ActstoreError, "none is empty"),
        ({"attention": {"mass": np.ones((3, 4, 1, 2))}}, ActstoreError, "attention 'mass' has shape"),
        ({"attention": {"Eoi": np.ones((3, 4, 1, 2))}}, ActstoreError, "role 'Eoi': use"),
        ({"attention_dtype": "float8"}, ActstoreError, "dtype 'float8' is not one of"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(tmp_path, change, error, message):
    store = making.create(tmp_path / "s")
    with pytest.raises(error, match=message):
        store.write(0, **making.content(0) | change)
    assert list((store.path / "parts").iterdir()) == list((store.path / "commits").iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 65_520.0), ("float16", np.nan), ("bfloat16", 3.4e38), ("bfloat16", np.inf), ("float32", 1e39)],
)
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, dtype, value):
    batch = making.content(0)
    batch["residual"]["image"] = batch["residual"]["image"].astype(np.float64)
    batch["residual"]["image"][1, 5, 7] = value  # the second image row of the last ok sample
    with pytest.raises(ActstoreError, match=rf"sample 'b0s3', role 'image', layer 1: .*not finite in {dtype}"):
        making.create(tmp_path / "s", dtype=dtype).write(0, **batch)


def test_a_modality_that_no_query_asks_for_is_refused(tmp_path):
    """`Image` would be left out wherever images are asked for."""
    store, batch = making.create(tmp_path / "s"), making.content(0)
    rows = batch["rows"]
    with pytest.raises(ActstoreError, match="rows: modality 'Image' is not one of text, image, special"):
        store.write(0, **batch | {"rows": rows.with_columns(modality=pl.lit("Image"))})
    store.write(
        0, **batch | {"rows": rows.with_columns(modality=pl.when(pl.col("role") == "image").then(pl.lit("image")))}
    )
    assert actstore.open(store.path).sql("select distinct role, modality from rows order by all").rows() == [
        ("eoi", None),
        ("image", "image"),
    ]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_an_image_that_comes_in_later_is_nan_before_and_nothing_else(tmp_path, dtype):
    """Below `image_from` vectors of images are NaN; at it and above, and all others, they are numbers."""
    store = actstore.create(
        tmp_path / "s", plan=making.plan(), layers=making.LAYERS, d_model=making.D_MODEL, dtype=dtype, image_from=1
    )
    batch = making.content(0)
    batch["rows"] = batch["rows"].with_columns(modality=pl.col("role").replace("eoi", "special"))
    with pytest.raises(ActstoreError, match=r"role 'image', layer 0: the image is not there yet"):
        store.write(0, **batch)
    batch["residual"]["image"] = batch["residual"]["image"].copy()
    batch["residual"]["image"][0] = np.nan
    other = batch | {"residual": {role: x.copy() for role, x in batch["residual"].items()}}
    for role, layer in (("image", 1), ("eoi", 0)):
        other["residual"][role][layer, 0] = np.nan
        with pytest.raises(ActstoreError, match=f"role '{role}', layer {layer}: a value is not finite"):
            store.write(0, **other)
        other["residual"][role][layer, 0] = batch["residual"][role][layer, 0]
    store.write(0, **batch)
    store = actstore.open(store.path)
    assert store.header.image_from == 1
    rows = store.sql("from rows where role = 'image'")
    assert np.isnan(store.residual(rows, 0)).all()
    assert np.isfinite(store.residual(rows, 1)).all()
    assert store.sql("select count(*) from rows where isnan(residual(row_id, 0)[1])").item() == rows.height
    with pytest.raises(ActstoreError, match="image_from -1 is not a residual point"):
        actstore.create(tmp_path / "t", plan=making.plan(), layers=[0], d_model=2, image_from=-1)


def test_bits_of_bfloat16_are_no_numbers_of_float16(tmp_path):
    batch = making.content(0)
    batch["residual"] = {role: np.full(array.shape, 0x3F80, np.uint16) for role, array in batch["residual"].items()}
    with pytest.raises(ActstoreError, match=r"an array of uint16: give floats, or bfloat16 bits"):
        making.create(tmp_path / "half", dtype="float16").write(0, **batch)
    store = making.create(tmp_path / "s")
    store.write(0, **batch)
    store = actstore.open(store.path)
    assert (store.residual(store.sql("from rows"), 1) == 1).all()


def test_a_batch_outside_the_plan(tmp_path):
    with pytest.raises(PlanError, match="batch 3 is not in the plan"):
        making.create(tmp_path / "s").write(3, **making.content(3))


def test_the_second_writer_of_a_batch_is_told(tmp_path):
    store = making.store(tmp_path / "s")
    before = making.files(store.path)
    with pytest.raises(AlreadyCommittedError, match="batch 1 is committed already"):
        store.write(1, **making.content(1))
    assert making.files(store.path) == before


def test_a_writer_overtaken_while_it_wrote_leaves_nothing_behind(tmp_path, monkeypatch):
    slow, fast = making.create(tmp_path / "s"), actstore.open(tmp_path / "s")
    monkeypatch.setattr(Draft, "_check_space", lambda *_: _overtake(monkeypatch, fast))
    with pytest.raises(AlreadyCommittedError, match="batch 0 was committed by another writer; this copy is discarded"):
        slow.write(0, **making.content(0))
    assert len(list((tmp_path / "s" / "parts").iterdir())) == 1
    assert actstore.open(tmp_path / "s").sql("from rows").height == 9


def _overtake(monkeypatch, store):
    monkeypatch.undo()
    store.write(0, **making.content(0))


@pytest.fixture
def done(monkeypatch):
    """Files and folders in the order in which they are synced, and the link that commits."""
    steps = []
    fsync, link = os.fsync, os.link

    def record_fsync(descriptor):
        steps.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def record_link(draft, path):
        steps.extend(["link"] * (Path(path).parent.name == "commits"))
        link(draft, path)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "link", record_link)
    return steps


def test_a_batch_is_on_the_disk_before_it_is_linked_and_the_link_before_it_is_acknowledged(tmp_path, done):
    store = making.create(tmp_path / "s")
    done.clear()
    part = store.path / "parts" / store.write(0, **making.content(0)).part
    before, after = done[: done.index("link")], done[done.index("link") + 1 :]
    assert {str(path) for path in [part, *part.rglob("*"), part.parent]} < set(before)
    assert re.fullmatch(rf"{store.path}/commits/\.b00000000\.json\.[0-9a-f]{{8}}", before[-1])
    for path in part.rglob("*"):  # a folder after what it holds
        assert before.index(str(path)) < before.index(str(path.parent))
    assert after == [f"{store.path}/commits"]


def test_a_new_store_is_on_the_disk_before_it_appears(tmp_path, done):
    making.create(tmp_path / "runs" / "s")
    synced = [re.sub(r"\.s\.[0-9a-f]{8}", "DRAFT", path.removeprefix(f"{tmp_path}")) for path in done]
    assert synced[0] == ""  # the folder that got the name `runs`
    names = ("actstore.json", "plan.parquet", "vocab.parquet", "parts", "commits", "results")
    assert {f"/runs/DRAFT/{name}" for name in names} <= set(synced)
    assert synced[-2:] == ["/runs/DRAFT", "/runs"]


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([2**100] * 4, dtype=pl.Int128),
        pl.Series([2**127] * 4, dtype=pl.UInt128),
        pl.Series([Path("a")] * 4, dtype=pl.Object),
        pl.Series([[2**100]] * 4, dtype=pl.List(pl.Int128)),
        pl.Series([{"a": [2**100]}] * 4, dtype=pl.Struct({"a": pl.List(pl.Int128)})),
    ],
    ids=lambda column: str(column.dtype),
)
def test_columns_that_no_table_holds_are_refused(tmp_path, column):
    with pytest.raises(ActstoreError, match=r"no table holds column 'x' of type .*: cast it, to pl.Int64 or pl.String"):
        actstore.create(tmp_path / "s", plan=making.plan(1).with_columns(x=column), layers=[0], d_model=8)
    assert not (tmp_path / "s" / "actstore.json").exists()
    store = making.store(tmp_path / "t")
    with pytest.raises(ActstoreError, match="no table holds column 'x'"):
        store.save_result("mine", pl.DataFrame({"x": column}), {})
    assert store.results() == []


@pytest.mark.parametrize("step", ["os.open", "fcntl.flock"])
def test_ctrl_c_lets_go_of_a_part(tmp_path, monkeypatch, step):
    """A notebook keeps what it stopped, and whatever that holds."""
    store = making.create(tmp_path / "s")

    def pressed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"actstore.write.drafts.{step}", pressed)
        with pytest.raises(KeyboardInterrupt) as stopped:
            store.draft(0)
    assert stopped.tb is not None
    assert drafts.live(store.path) == set()
    store.write(0, **making.content(0))
    assert 0 not in store.remaining
