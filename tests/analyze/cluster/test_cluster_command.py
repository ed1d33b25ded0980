"""actstore cluster, end to end on a small store made with numpy."""

import numpy as np
import pytest
from sklearn.metrics import completeness_score, homogeneity_score, v_measure_score

from actstore_analyze.cluster.measure import density_peaks
from actstore_analyze.study.intervals import halves, of_halves, share
from two_sided import N, both, command


def test_clusters_of_both_modalities(store, capsys):
    _, rows, _ = command(capsys, "cluster", store, "--min-size", 30)
    truth = np.repeat([1, 0], N)
    for row in rows:
        x = np.concatenate(both(row["layer"]))
        labels = density_peaks(x).labels
        assert row["homogeneity_all"] == pytest.approx(homogeneity_score(truth, labels))
        kept = np.bincount(labels)[labels] >= 30
        assert row["kept"] == pytest.approx(kept.mean())
        assert row["homogeneity"] == pytest.approx(homogeneity_score(truth[kept], labels[kept]))
        assert row["clusters"] == labels.max() + 1
        assert (row["role"], row["label"], row["n"]) == ("text + image", "modality", 2 * N)
    assert rows[2]["homogeneity"] == pytest.approx(1)


def test_intervals_are_of_the_clusters_of_halves(store, capsys):
    _, (row,), _ = command(capsys, "cluster", store, "--layers", 0)
    x, truth = np.concatenate(both(0)), np.repeat([1, 0], N)
    found = halves(lambda chosen: homogeneity_score(truth[chosen], density_peaks(x[chosen]).labels), 2 * N, 20)
    expected = share(row["homogeneity_all"], of_halves(found, 2 * N), 2 * N, z=2.0930241)
    assert (row["low_all"], row["high_all"]) == pytest.approx(expected, rel=1e-6)
    for metric, score in (("completeness", completeness_score), ("v", v_measure_score)):
        _, (every,), _ = command(capsys, "cluster", store, "--layers", 0, "--min-size", 2)
        found = halves(lambda chosen, of=score: of(truth[chosen], density_peaks(x[chosen]).labels), 2 * N, 20)
        expected = share(every[metric], of_halves(found, 2 * N), 2 * N, z=2.0930241)
        assert (every[f"{metric}_low"], every[f"{metric}_high"]) == pytest.approx(expected, rel=1e-6)
    _, (bare,), _ = command(capsys, "cluster", store, "--layers", 0, "--no-interval")
    assert (bare["homogeneity_all"], bare["low_all"]) == (row["homogeneity_all"], None)


def test_small_clusters_are_left_out_of_one_score_only(store, capsys):
    _, rows, _ = command(capsys, "cluster", store, "--layers", 2, "--min-size", 50)
    assert (rows[0]["clusters"], rows[0]["large"], rows[0]["kept"]) == (4, 0, 0)
    assert rows[0]["homogeneity"] is None or np.isnan(rows[0]["homogeneity"])
    assert rows[0]["homogeneity_all"] == pytest.approx(1)


def test_without_their_halo_clusters_have_fewer_points(store, capsys):
    _, (row,), _ = command(capsys, "cluster", store, "--layers", 2, "--min-size", 10, "--halo")
    x = np.concatenate(both(2))
    labels = density_peaks(x, halo=True).labels
    assert 0 < row["noise"] == pytest.approx((labels < 0).mean())
    assert row["homogeneity_all"] == pytest.approx(
        homogeneity_score(np.repeat([1, 0], N)[labels >= 0], labels[labels >= 0])
    )
    status, _, err = command(capsys, "cluster", store, "--halo", "--method", "hdbscan")
    assert status == 1
    assert "--halo is of density peaks; HDBSCAN has noise of its own" in err


def test_clusters_of_a_role_by_label(store, capsys):
    asked = ("cluster", store, "from rows where prompt_order = 'image-text'", "--roles", "eoi", "--method", "hdbscan")
    _, rows, _ = command(capsys, *asked, "--min-size", 10, "-k", 3, "--metric", "euclidean")
    assert [row["label"] for row in rows] == ["label"] * 3
    assert rows[0]["homogeneity"] is None or np.isnan(rows[0]["homogeneity"])  # all vectors are the same
    assert rows[0]["clusters"] == 0
    assert rows[2]["homogeneity"] == pytest.approx(1)
    assert rows[2]["clusters"] == 2
