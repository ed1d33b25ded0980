"""Linear probes: the function, and actstore probe end to end."""

import re
from shutil import rmtree

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.probe import measure
from actstore_analyze.probe.measure import folded, held_out
from actstore_analyze.probe.study import Probe
from actstore_analyze.study.intervals import wilson
from two_sided import N, command, make, vectors

SQL = "from rows where prompt_order = 'image-text'"
Y = np.arange(N) % 2
TRAIN = np.arange(N) < 60


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("two") / "store")


def model():
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))


def test_held_out_by_a_column(store, tmp_path, capsys):
    status, rows, err = command(
        capsys, "probe", store, SQL, "--roles", "eoi,random-text", "--figure", tmp_path / "f.svg"
    )
    assert status == 0
    assert "saved as" in err
    assert len(rows) == 6
    for row in rows:
        x = vectors(row["role"], "image-text", row["layer"]).astype(np.float64)
        right = int((model().fit(x[TRAIN], Y[TRAIN]).predict(x[~TRAIN]) == Y[~TRAIN]).sum())
        assert row["accuracy"] == pytest.approx(right / 20)
        assert [row["low"], row["high"]] == pytest.approx(wilson(right, 20))
        assert (row["chance"], row["held_out"], row["n"], row["classes"]) == (0.5, 20, N, 2)
    assert rows[0]["accuracy"] == 0.5  # eoi is constant at layer 0
    assert rows[2]["accuracy"] > 0.9
    drawing = (tmp_path / "f.svg").read_text()
    assert re.search(r'aria-label="eoi, layer 2: accuracy \d\.\d{3} \(', drawing)
    assert "n = 20 samples held out; band: 95 % interval" in drawing


def test_held_out_by_folds(store, capsys):
    _, rows, _ = command(capsys, "probe", store, SQL, "--roles", "eoi", "--layers", 1, "--folds", 4, "--seed", 3)
    x = vectors("eoi", "image-text", 1).astype(np.float64)
    said = cross_val_predict(model(), x, Y, cv=StratifiedKFold(4, shuffle=True, random_state=3))
    assert rows[0]["accuracy"] == pytest.approx((said == Y).mean())
    assert rows[0]["held_out"] == N
    # a third more variance than that of independent samples: as if there were a quarter fewer
    assert [rows[0]["low"], rows[0]["high"]] == pytest.approx(wilson(0.75 * (said == Y).sum(), 0.75 * N))


def test_without_intervals_there_are_none(store, tmp_path, capsys):
    asked = ("probe", store, SQL, "--roles", "eoi", "--layers", 1, "--no-interval")
    _, rows, _ = command(capsys, *asked, "--figure", tmp_path / "f.svg")
    assert (rows[0]["low"], rows[0]["high"]) == (None, None)
    drawing = (tmp_path / "f.svg").read_text()
    assert "interval" not in drawing
    assert re.search(r'aria-label="eoi, layer 1: accuracy \d\.\d{3}, n = 20"', drawing)
    assert "Interval" not in Probe.of(actstore.open(store), roles=["eoi"], interval="none").methods


def test_positions_that_some_samples_lack_are_left_out(tmp_path, capsys):
    """Of prompts of three lengths; the third position has one sample of a class, too few for folds of its own."""
    plan = pl.DataFrame({"sample_id": [f"s{i:02}" for i in range(40)], "label": ["a", "b"] * 20})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[1], d_model=4, dtype="float32", run={"n_layers": 2})
    at = [(name, "image", k) for i, name in enumerate(plan["sample_id"]) for k in range(3 if i < 2 else 2)]
    rows = pl.DataFrame(at, schema=["sample_id", "role", "k"], orient="row")
    x = np.random.default_rng(0).standard_normal((1, rows.height, 4)).astype(np.float32)
    store.write(0, samples=plan.select("sample_id", status=pl.lit("ok")), rows=rows, residual={"image": x})
    status, found, err = command(capsys, "probe", store.path, "--roles", "image", "--folds", 4)
    assert (status, found[0]["positions"], found[0]["n"]) == (0, 2, 40), err
    assert "role 'image': 1 of 3 positions are not in every sample; left out" in err


def test_folds_where_the_rows_chosen_are_all_test(store, capsys):
    _, rows, _ = command(capsys, "probe", store, f"{SQL} and split = 'test'", "--roles", "eoi", "--layers", 2)
    assert (rows[0]["held_out"], rows[0]["n"]) == (20, 20)


@pytest.mark.slow
def test_several_jobs_give_what_one_gives(store, capsys):
    asked = ("probe", store, SQL, "--roles", "eoi")
    _, alone, _ = command(capsys, *asked)
    assert command(capsys, *asked, "--force", "--jobs", 2)[1] == alone


def test_a_dimension_that_tells_can_be_dropped(store, capsys):
    asked = ("probe", store, SQL, "--roles", "eoi", "--layers", 2)
    _, plain, _ = command(capsys, *asked)
    _, dropped, _ = command(capsys, *asked, "--drop-dims", 1)
    assert dropped[0]["accuracy"] < plain[0]["accuracy"]


def test_labels_that_say_nothing_are_read_by_chance():
    rng = np.random.default_rng(0)
    found = folded(rng.standard_normal((400, 5)), rng.integers(0, 2, 400))
    assert found.n == 400
    assert 0.4 < found.right / found.n < 0.6


def test_scale_and_shift_do_not_matter():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((80, 4)) + Y[:, None]
    assert held_out(x, Y, TRAIN) == held_out(x * [1e-4, 1, 1e3, 7] + 50, Y, TRAIN)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: held_out(np.zeros((4, 1)), [0, 0, 1, 1], np.ones(4, bool)), "4 points to train on and 0 to hold out"),
        (lambda: held_out(np.zeros((4, 1)), [0, 0, 1, 1], np.array([1, 1, 0, 0], bool)), "all training points have"),
        (lambda: folded(np.zeros((5, 1)), list("aaaab"), folds=2), "label 'b' has 1 points, too few for 2 folds"),
        (lambda: held_out(np.array([[1.0], [np.inf]]), [0, 1], np.array([True, False])), "row 1 holds NaN or infinity"),
    ],
)
def test_points_that_cannot_be_probed(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "spilt"], "no column 'spilt' to tell train from test; did you mean 'split'"),
        (["--split", "split", "--folds", "3"], "take --split or --folds, not both"),
        (
            ["--label", "sample_id", "--folds", "2"],
            "label 's000/image-text' has 1 vectors of role 'eoi', too few for 2 folds",
        ),
        (
            ["from rows where label = 'a' or split = 'test'"],
            "role 'eoi': all training points have the label 'a'; a probe needs two",
        ),
        (["--split", "label"], "the query selects no labelled row of role 'eoi'"),
    ],
)
def test_bad_input_is_one_clear_line(store, capsys, arguments, message):
    assert run(["probe", str(store), *arguments, "--roles", "eoi"]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_report_shows_it(store, tmp_path):
    assert run(["probe", str(store), "--roles", "eoi", "--layers", "2"]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert ">Linear probe of “label”, held out by split" in page
    assert "fitted where split is train, asked where it is test" in page


def test_the_interval_of_several_positions_is_over_samples(tmp_path, capsys):
    from labelled import POSITIONS, make_store
    from labelled import N as SAMPLES
    from labelled import vectors as labelled_vectors

    make_store(tmp_path / "store")
    status, rows, _ = command(capsys, "probe", tmp_path / "store", "--roles", "image", "--layers", 2)
    assert status == 0
    train, y = np.arange(SAMPLES) % 2 == 1, np.arange(SAMPLES) % 3
    x = labelled_vectors("image", 2, POSITIONS).astype(np.float32).astype(np.float64)
    right = [model().fit(x[train, k], y[train]).predict(x[~train, k]) == y[~train] for k in range(POSITIONS)]
    shares = np.mean(right, axis=0)
    assert rows[0]["accuracy"] == pytest.approx(shares.mean())
    assert (rows[0]["held_out"], rows[0]["positions"]) == (SAMPLES // 2, POSITIONS)
    rng = np.random.default_rng(1)
    means = shares[rng.integers(0, len(shares), (20_000, len(shares)))].mean(axis=1)
    assert [rows[0]["low"], rows[0]["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    assert run(["report", str(tmp_path / "store"), "-o", str(tmp_path / "r.html")]) == 0
    assert "Interval: 95 %, over samples" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(("few", "threads"), [(2**22, 1), (1, 2)])
def test_small_probes_take_one_thread_and_tables_stay_the_same(store, capsys, monkeypatch, few, threads):
    asked = ("probe", store, SQL, "--roles", "eoi,random-text")
    _, before, _ = command(capsys, *asked)
    assert len(before) == 6
    rmtree(store / "results")
    seen = set()

    class Watched(LogisticRegression):
        def fit(self, *given):
            seen.update(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
            return super().fit(*given)

    monkeypatch.setattr(measure, "LogisticRegression", Watched)
    monkeypatch.setattr(measure, "FEW_VALUES", few)
    with threadpool_limits(2, user_api="blas"):
        _, rows, _ = command(capsys, *asked)
    assert rows == before
    assert seen == {threads}
