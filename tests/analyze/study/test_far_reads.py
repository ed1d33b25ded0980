"""How often measures read the vectors of a store at a URL: requests by shard, where nothing of them is kept."""

import re
from collections import Counter

import numpy as np
import polars as pl
import pytest

import actstore
import knockouts
import leading
import lenses
import patching
from actstore.maintain.pushing import push
from actstore.read import far, mirror
from actstore_analyze.report.explore import sample as seen
from actstore_analyze.report.explore.sample import sample
from buckets import bucket
from leading import URL

PARTS, SAMPLES, LAYERS, D = 3, 8, (0, 1, 2, 4), 16
ROLES = {"eoi": 1, "image": 3}
ALL = {"layers": LAYERS, "roles": [*ROLES]}


def make(path):
    """PARTS of SAMPLES; two labels that each part has, vectors that tell them apart; attention to every key."""
    names = [f"s{i:02}" for i in range(PARTS * SAMPLES)]
    plan = pl.DataFrame({"batch": np.repeat(np.arange(PARTS), SAMPLES), "sample_id": names})
    label = pl.Series(["w7" if i % 2 else "w9" for i in range(len(names))])
    plan = plan.with_columns(label=label, image=pl.format("{}.png", "sample_id"))
    words = {i: f"w{i}" for i in range(lenses.TOKENS)}
    kept = lenses.made()
    store = actstore.create(
        path, plan=plan, layers=LAYERS, d_model=D, dtype="float32", run={"n_layers": 4}, vocabulary=words, lens=kept
    )
    rng = np.random.default_rng(0)
    for own in plan.partition_by("batch", maintain_order=True):
        rows = [
            (name, role, k, 2 * number + k, 5 + k)
            for number, (role, many) in enumerate(ROLES.items())
            for name in own["sample_id"]
            for k in range(many)
        ]
        apart = np.arange(SAMPLES)[:, None] % 2 * np.eye(1, D)
        store.write(
            own["batch"][0],
            samples=own.select("sample_id", status=pl.lit("ok"), length=pl.lit(9)),
            rows=pl.DataFrame(rows, schema=["sample_id", "role", "k", "position", "token_id"], orient="row"),
            residual={
                role: (rng.standard_normal((len(LAYERS), SAMPLES * many, D)) + np.repeat(3 * apart, many, axis=0))
                .astype(np.float32)
                for role, many in ROLES.items()
            },
            attention={"mass": rng.random((len(LAYERS), SAMPLES, 9)).astype(np.float32)},
        )  # fmt: skip
    return path


def make_saes(path):
    """Autoencoders of 8 features, of what blocks 0 and 1 put out."""
    rng = np.random.default_rng(1)
    for block in range(2):
        folder = path / f"layer_{block}"
        folder.mkdir(parents=True)
        shapes = {"W_enc": (D, 8), "b_enc": 8, "W_dec": (8, D), "b_dec": D, "threshold": 8}
        np.savez(folder / "params.npz", **{name: rng.random(shape, np.float32) for name, shape in shapes.items()})


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    path = make(tmp_path_factory.mktemp("read") / "s")
    make_saes(path.with_name("s-saes"))
    return actstore.open(path)


@pytest.fixture
def served(near, tmp_path, monkeypatch):
    """The store in a bucket; the disk has no room for vectors, and no shard is small."""
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        push(near.path, URL)
        monkeypatch.setattr(mirror, "ROOM", 1e30)
        found.took()
        yield found


def shards(served):
    """How often each shard was asked for."""
    found = [re.search(r"parts/([^/]+)/((?:residual|attention)/\w+)/c/", key) for _, key in served.took()]
    return Counter((one[1], one[2]) for one in found if one)


def asked(store, served):
    """The same by the number of the part's batch."""
    batches = {part.commit.part: part.commit.batches[0] for part in store.parts}
    return {(batches[part], name): times for (part, name), times in shards(served).items()}


def in_turn(layers, roles=ROLES, passes=1):
    """What goes layer after layer asks each shard for: its index, and each layer."""
    return dict.fromkeys(((part, f"residual/{role}") for part in range(PARTS) for role in roles), 1 + passes * layers)


def at_once(roles=ROLES):
    """What takes all layers together asks each shard for."""
    return dict.fromkeys(((part, f"residual/{role}") for part in range(PARTS) for role in roles), 1)


CALLS = {
    "overlap": (lambda one: one.overlap(k=3, **ALL), in_turn(len(LAYERS))),
    "probe": (lambda one: one.probe(folds=3, layers=[1, 2], roles="eoi"), in_turn(2, ["eoi"])),
    "dimension": (lambda one: one.dimension(**ALL), in_turn(len(LAYERS))),
    "cluster": (lambda one: one.cluster(layers=[1, 4], roles="image"), in_turn(2, ["image"])),
    "outliers": (lambda one: one.outliers(), at_once()),
    "cka": (lambda one: one.cka(roles="eoi"), at_once(["eoi"])),
    "lens": (lambda one: one.lens(**ALL), at_once()),
    "lens of two layers": (lambda one: one.lens(roles=["eoi"], layers=[1, 4]), in_turn(1, ["eoi"])),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_measure_asks_each_shard_as_often_as_its_formula_says(near, served, name):
    assert 4 * D * max(ROLES.values()) * SAMPLES * len(LAYERS) < far.APART  # layers of a shard are near each other
    call, expected = CALLS[name]
    store = actstore.open(URL)
    found = call(store.measure).table
    assert asked(store, served) == expected
    assert found.equals(call(near.measure).table)


AGAINST = {
    "gap": (lambda one, _: one.gap(text="role = 'eoi'", image="role = 'image'", pairs="all", layers=[1, 4]),
            in_turn(1, passes=2)),
    "overlap minus": (lambda one, other: one.overlap(k=3, minus_store=other, roles="eoi", layers=[1, 4]),
                      in_turn(2, ["eoi"])),
    "overlap with": (lambda one, other: one.overlap(k=3, with_store=other, roles="eoi", layers=[1, 4]),
                     in_turn(2, ["eoi"])),
    "probe minus": (lambda one, other: one.probe(folds=3, minus_store=other, roles="eoi", layers=[1, 4]),
                    in_turn(2, ["eoi"])),
    "lens minus": (lambda one, other: one.lens(minus_store=other, roles="eoi", layers=LAYERS), at_once(["eoi"])),
    "sae": (lambda one, other: one.sae(saes=f"{other}-saes", roles=["eoi", "image"], hook="post", force=True),
            in_turn(2)),
    "cluster by hdbscan": (lambda one, _: one.cluster(method="hdbscan", min_size=3, roles="eoi", layers=[1, 4]),
                           in_turn(2, ["eoi"])),
}  # fmt: skip


@pytest.mark.parametrize("name", [*AGAINST])
def test_no_more_is_read_where_two_are_compared(near, served, name):
    call, expected = AGAINST[name]
    store = actstore.open(URL)
    found = call(store.measure, str(near.path)).table
    assert asked(store, served) == expected
    assert found.equals(call(near.measure, str(near.path)).table)


@pytest.mark.parametrize("make", [knockouts.make_store, patching.make_store])
def test_conditions_are_read_once_and_patches_in_tables_alone(tmp_path, monkeypatch, make):
    make(tmp_path / "s")
    near = actstore.open(tmp_path / "s")
    with leading.pushed(monkeypatch, near.path, tmp_path / "cache") as served:
        monkeypatch.setattr(mirror, "ROOM", 1e30)
        store = actstore.open(URL)
        if make is knockouts.make_store:
            found, alone = (one.measure.knockout().table for one in (store, near))
            conditions = [one for one in knockouts.CONDITIONS if "patch" not in one]
            assert [*shards(served).values()] == [1 + len(conditions)]
        else:
            found, alone = (one.measure.patch().table for one in (store, near))
            assert not shards(served)
        assert found.equals(alone)


def test_what_a_page_shows_of_a_sample_is_of_its_part_alone(near, served):
    """All layers of a role in one request, and attention of no other part."""
    store = actstore.open(URL)
    found = sample(store, "s20")
    assert asked(store, served) == {(2, "residual/eoi"): 1, (2, "residual/image"): 1, (2, "attention/mass"): 1}
    alone = sample(near, "s20")
    np.testing.assert_array_equal(found.lens.probabilities, alone.lens.probabilities)
    assert found.lens.tokens == alone.lens.tokens
    (own,) = (part for part in near.parts if 2 in part.commit.batches)
    mass = own.array("attention/mass")
    expected = [mass.layer(at)[4] for at in range(len(LAYERS))]
    np.testing.assert_array_equal(
        seen._attention(near, {"batch": 2, "sample_id": "s20", "condition": "none"}), expected
    )
