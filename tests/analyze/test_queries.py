"""--queries: the neighbours of some samples, drawn by a seed, among all of them; exact for each."""

import json

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import homogeneity_score

import actstore
import labelled
import two_sided
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.charts import charts
from actstore_analyze.cluster.measure import density_peaks, density_peaks_from
from actstore_analyze.dimension.measure import gride_from
from actstore_analyze.neighbors import nearest
from actstore_analyze.overlap.measure import (
    data_overlap_from,
    label_overlap_per_point,
    label_overlap_without,
)
from actstore_analyze.study.intervals import LeftOut, jackknifed

KINDS = ["gauss", "copies", "lattice", "far"]


def points(kind, n=160):
    rng = np.random.default_rng(len(kind))
    x = rng.standard_normal((n, 6)).astype(np.float32)
    if kind == "copies":
        x = x[rng.integers(0, 30, n)]
    if kind == "lattice":
        x = rng.integers(0, 3, (n, 4)).astype(np.float32)
    return x + np.float32(1e5) if kind == "far" else x


def drawn(n, queries, seed=0):
    return np.sort(np.random.default_rng(seed).permutation(n)[:queries])


@pytest.mark.parametrize("metric", ["euclidean", "normalised", "cosine"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grouped", [False, True])
def test_neighbours_of_queries_are_those_of_a_search_for_all(kind, metric, grouped):
    """Bit for bit, where points are equal, tied, in one group, or so far off that float32 leaves them in doubt."""
    x = points(kind) + (1 if kind == "lattice" else 0)
    groups = np.random.default_rng(1).integers(0, 5, len(x)) if grouped else None
    every = nearest(x, 12, metric=metric, groups=groups)
    for asked in (np.array([7]), drawn(len(x), 40), np.arange(len(x))):
        found = nearest(x, 12, metric=metric, groups=groups, queries=asked)
        np.testing.assert_array_equal(found.indices, every.indices[asked])
        np.testing.assert_array_equal(found.distances, every.distances[asked])
        np.testing.assert_array_equal(found.points, asked)


@pytest.mark.parametrize("kind", ["gauss", "lattice"])
def test_of_some_of_the_points_those_drawn_keep_their_neighbours_among_these(kind):
    x, asked = points(kind), drawn(160, 40)
    chosen = np.sort(np.random.default_rng(3).permutation(160)[:80])
    own = nearest(x, 150, queries=asked).among(chosen, 9)
    both = np.intersect1d(asked, chosen)
    expected = nearest(x[chosen], 9, queries=np.searchsorted(chosen, both))
    np.testing.assert_array_equal(own.indices, expected.indices)
    np.testing.assert_array_equal(own.distances, expected.distances)
    np.testing.assert_array_equal(own.points, expected.points)
    assert own.first(2).points.tolist() == own.points.tolist()


@pytest.mark.parametrize("asked", [[], [3, 1], [1, 1], [-1, 2], [0, 160], [0.5], [[1]]])
def test_queries_that_are_no_points_are_refused(asked):
    with pytest.raises(ActstoreError, match="queries must be"):
        nearest(points("gauss"), 3, queries=np.array(asked))


def test_without_each_point_queries_whose_neighbour_it_is_have_one_fewer():
    x, y, asked = points("lattice", 30), np.arange(30) % 3, drawn(30, 9)
    found = label_overlap_without(nearest(x, 10, queries=asked), y, 3)
    expected = labelled.overlaps_left(x, y, 3, asked)
    assert found.without == pytest.approx(expected.without, abs=1e-12)
    assert found.pairs == pytest.approx(expected.pairs, abs=1e-6)


def test_others_that_change_nothing_leave_the_interval_of_the_queries_alone():
    x = np.repeat([0.0, 1.0], [40, 60])
    alone = (x.sum() - x) / 99
    everywhere = np.concatenate([alone, np.full(900, x.mean() - 0.02)])  # wherever they lie, they do not vary
    found = jackknifed(x.mean(), LeftOut(everywhere), np.arange(1000) < 100)
    assert found == pytest.approx(jackknifed(x.mean(), LeftOut(alone)), rel=1e-12)


def test_what_draws_differ_by_is_the_standard_error():
    """Over many draws of the same points; it is that of more points, so that less is left where many are drawn."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 600)
    shares = label_overlap_per_point(rng.standard_normal((600, 5)) + 2 * np.eye(5)[y], y, 10)
    values = [shares[drawn(600, 60, seed)].mean() for seed in range(2000)]
    assert np.std(values) == pytest.approx(shares.std() / np.sqrt(60) * np.sqrt(1 - 60 / 600), rel=0.05)
    assert np.mean(values) == pytest.approx(shares.mean(), abs=0.003)


@pytest.fixture
def store(tmp_path):
    return labelled.make_store(tmp_path / "store")


def command(capsys, *arguments):
    status = run([*map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


def test_label_overlap_of_drawn_samples(store, capsys, tmp_path):
    ask = ("overlap", store, "--roles", "eoi", "-k", 5)
    _, every, _ = command(capsys, *ask)
    picture = tmp_path / "o.svg"
    _, rows, _ = command(capsys, *ask, "--queries", 20, "--seed", 3, "--figure", picture)
    x, y = labelled.vectors("eoi", 2)[:, 0].astype(np.float32), np.arange(labelled.N) % 3
    asked, row = drawn(labelled.N, 20, 3), rows[-1]
    shares = label_overlap_per_point(x, y, 5)[asked]
    assert row["overlap"] == pytest.approx(shares.mean(), abs=1e-14)
    assert row["overlap"] != every[-1]["overlap"]
    assert row["se"] == pytest.approx(shares.std(ddof=1) / np.sqrt(20))
    assert row["se"] <= 0.5 / np.sqrt(19)
    left, is_asked = labelled.overlaps_left(x, y, 5, asked), np.isin(np.arange(labelled.N), asked)
    assert (row["low"], row["high"]) == pytest.approx(jackknifed(row["overlap"], left, is_asked), rel=1e-6)
    assert row["high"] - row["low"] > every[-1]["high"] - every[-1]["low"]
    assert (row["n"], row["queries"], row["chance"]) == (labelled.N, 20, every[-1]["chance"])
    largest = max(one["se"] for one in rows[1:])
    assert f"n = 60 samples, 20 of them drawn (standard error up to {largest:.2g})" in picture.read_text("utf-8")
    _, rows, _ = command(capsys, *ask, "--queries", 1000)
    assert [one["overlap"] for one in rows[1:]] == [one["overlap"] for one in every[1:]]
    assert {one["queries"] for one in rows} == {labelled.N}


def test_several_positions_have_the_same_queries(store, capsys):
    _, (row,), _ = command(capsys, "overlap", store, "--roles", "image", "-k", 5, "--queries", 20, "--layers", 2)
    x, y = labelled.vectors("image", 2, labelled.POSITIONS).astype(np.float32), np.arange(labelled.N) % 3
    of_samples = np.mean([label_overlap_per_point(x[:, k], y, 5) for k in range(labelled.POSITIONS)], axis=0)
    shares = of_samples[drawn(labelled.N, 20)]
    assert row["overlap"] == pytest.approx(shares.mean())
    assert row["se"] == pytest.approx(shares.std(ddof=1) / np.sqrt(20))


def test_data_overlap_and_dimension_of_drawn_samples(store, capsys):
    x, z = (labelled.vectors("eoi", layer)[:, 0].astype(np.float32) for layer in (1, 2))
    asked = drawn(labelled.N, 25)
    both = [nearest(one, 8, queries=asked) for one in (x, z)]
    ask = ("--roles", "eoi", "--queries", 25, "--layers", 1)
    _, (row,), _ = command(capsys, "overlap", store, "--with-layer", 2, "-k", 8, *ask)
    assert row["overlap"] == pytest.approx(data_overlap_from(*both).mean())
    assert row["queries"] == 25
    assert row["low"] < row["overlap"] < row["high"]
    _, (row,), _ = command(capsys, "dimension", store, "--rank", 8, *ask)
    found = gride_from(both[0], 8).row(-1, named=True)
    assert (row["id"], row["error"]) == pytest.approx((found["id"], found["error"]))
    assert row["low"] < row["id"] < row["high"]
    assert row["queries"] == 25


def test_clusters_of_drawn_vectors_have_densities_among_all(tmp_path, capsys):
    store = two_sided.make(tmp_path / "two")
    n = 2 * two_sided.N
    asked, truth = drawn(n, 70, 2), np.repeat([1, 0], two_sided.N)
    for layer in (0, 1):
        x = np.concatenate(two_sided.both(layer))
        ask = ("cluster", store, "--layers", layer, "--queries", 70, "--seed", 2, "--min-size", 20)
        _, (row,), _ = command(capsys, *ask)
        among_all = nearest(x, 100, metric="normalised", queries=asked)
        own = nearest(x[asked], 69, metric="normalised")
        labels = density_peaks_from(own, among_all=among_all).labels
        assert row["homogeneity_all"] == pytest.approx(homogeneity_score(truth[asked], labels))
        kept = np.bincount(labels)[labels] >= np.ceil(20 * 70 / n)
        assert row["kept"] == pytest.approx(kept.mean())
        assert (row["n"], row["queries"]) == (n, 70)
        _, (bare,), _ = command(capsys, *ask, "--no-interval")
        assert bare["homogeneity_all"] == row["homogeneity_all"]
    assert row["low_all"] <= row["homogeneity_all"] <= row["high_all"]


def test_clusters_of_a_draw_are_about_those_of_all():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 3000)
    x = rng.standard_normal((3000, 4)) + 5 * np.eye(4)[y]
    asked = drawn(3000, 500)
    among_all = nearest(x, 16, metric="euclidean", queries=asked)
    found = density_peaks_from(nearest(x[asked], 100), among_all=among_all)
    every = density_peaks(x, metric="euclidean")
    assert len(found.centers) == len(every.centers) == 3
    assert homogeneity_score(every.labels[asked], found.labels) > 0.95
    assert found.dimension == pytest.approx(every.dimension, rel=0.1)
    np.testing.assert_allclose(  # the same densities, but for the dimension
        found.log_density, density_peaks(x, metric="euclidean", dimension=found.dimension).log_density[asked], rtol=1e-9
    )


def test_title_methods_and_command_say_what_was_drawn(store):
    found = actstore.open(store).measure.dimension(roles=["eoi"], rank=8, queries=20, seed=3)
    assert found.call.title == "Intrinsic dimension, rank 8, for 20 samples, drawn with seed 3, among all"
    assert "They were measured for 20 samples, drawn with seed 3, among all." in found.call.methods
    assert "--queries 20 --seed 3" in found.call.command("S")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["overlap", "--weights", "class", "--queries", "9"], "leave --weights class out"),
        (["cluster", "--roles", "eoi", "--method", "hdbscan", "--queries", "40"], "with HDBSCAN select fewer rows"),
        (["cluster", "--roles", "eoi", "--queries", "16"], "16 queries are no clusters of 16 neighbours; draw more"),
    ],
)
def test_what_cannot_be_drawn_is_refused(store, capsys, words, said):
    status, _, err = command(capsys, words[0], store, *words[1:])
    assert status == 1
    assert said in err


def test_a_figure_of_results_without_draws_says_nothing_of_them():
    assert charts.queried(pl.DataFrame({"n": [3]})) == ""
