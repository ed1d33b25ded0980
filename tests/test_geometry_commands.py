"""actstore gap, cluster and dimension, end to end on a small store made with numpy."""

import re

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import homogeneity_score

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.charts import charts
from actstore_analyze.cluster.measure import density_peaks
from actstore_analyze.gap import figure as gap_figure
from actstore_analyze.gap.study import Gap
from two_sided import LAYERS, ORDERS, ROLES, D, N, command, make, vectors


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("two") / "store")


def both(layer):
    """Text of image-text prompts, image of text-image prompts."""
    return vectors("random-text", "image-text", layer), vectors("random-image", "text-image", layer)


def cosines(text, image):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (text, image)]
    return unit[0] @ unit[1].T


def test_gap_is_the_quartiles_of_the_unmatched_cosines(store, capsys):
    status, rows, err = command(capsys, "gap", store)
    assert status == 0
    assert "saved as" in err
    assert [row["layer"] for row in rows] == list(LAYERS)
    assert [row["depth"] for row in rows] == [0, 0.5, 1]
    for row in rows:
        values = cosines(*both(row["layer"]))[~np.eye(N, dtype=bool)]
        assert [row["q25"], row["median"], row["q75"]] == pytest.approx(
            np.quantile(values, [0.25, 0.5, 0.75]), abs=2e-6
        )
        assert (row["n_text"], row["n_image"], row["pairs"]) == (N, N, "unmatched")
    assert rows[2]["median"] < rows[0]["median"]


def test_gap_pairs_the_two_prompts_of_a_sample(store, capsys):
    _, rows, _ = command(capsys, "gap", store, "--pairs", "matched", "--absolute", "--layers", 2)
    matched = np.abs(np.diag(cosines(*both(2))))
    assert rows[0]["median"] == pytest.approx(np.median(matched), abs=2e-6)


def test_gap_of_rows_chosen_by_sql(store, capsys):
    asked = ("gap", store, "from rows where split = 'test'", "--text", "role = 'eoi' and prompt_order = 'image-text'")
    _, rows, _ = command(capsys, *asked, "--layers", 1)
    values = cosines(vectors("eoi", "image-text", 1)[60:], both(1)[1][60:])[~np.eye(20, dtype=bool)]
    assert rows[0]["median"] == pytest.approx(np.median(values), abs=2e-6)


def test_gap_centred_and_without_a_dimension(store, capsys):
    _, rows, _ = command(capsys, "gap", store, "--center", "--drop-dims", "0,3", "--layers", 2, "--pairs", "all")
    text, image = (np.delete(x, [0, 3], axis=1) for x in both(2))
    mean = np.concatenate([text, image]).mean(axis=0)
    assert rows[0]["median"] == pytest.approx(np.median(cosines(text - mean, image - mean)), abs=2e-6)


@pytest.mark.parametrize("pairs", ["all", "unmatched", "lower", "matched"])
def test_gap_of_parts_is_that_of_all(store, pairs, monkeypatch):
    call = Gap(layers=LAYERS, pairs=pairs, center=True, drop_dims=(3,))
    opened, read = actstore.open(store), []
    whole = call.table(opened, say=print)
    monkeypatch.setattr("actstore_analyze.gap.study.PART_BYTES", 4 * D * 33)  # of 80 vectors
    residual = opened.residual
    monkeypatch.setattr(opened, "residual", lambda rows, layer: read.append(len(rows)) or residual(rows, layer))
    parts = call.table(opened, say=print)
    assert max(read) == 33
    quartiles = ("q25", "median", "q75")
    assert parts.drop(quartiles).equals(whole.drop(quartiles))
    for name in quartiles:
        assert parts[name].to_list() == pytest.approx(whole[name].to_list(), abs=2e-6)


def test_a_zero_vector_beyond_the_first_part_is_said(tmp_path, monkeypatch):
    x = {
        role: np.stack([np.concatenate([vectors(role, order, layer) for order in ORDERS]) for layer in LAYERS])
        for role in ROLES
    }
    x["random-text"][1, 70] = 0
    monkeypatch.setattr("actstore_analyze.gap.study.PART_BYTES", 4 * D * 33)
    call = Gap(layers=(1,))
    with pytest.raises(ActstoreError, match="layer 1, texts from 66 and images from 0: row 4 is a zero vector"):
        call.table(actstore.open(make(tmp_path / "zero", residual=x)), say=print)


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


def test_dimension_at_rank_2_is_the_two_nearest_neighbours_estimate(store, capsys):
    asked = ("dimension", store, "from rows where prompt_order = 'image-text'", "--roles", "random-text,eoi")
    _, rows, _ = command(capsys, *asked, "--rank", 2)
    for row in rows:
        if (row["role"], row["layer"]) == ("eoi", 0):
            assert row["id"] is None or np.isnan(row["id"])
            continue
        x = vectors(row["role"], "image-text", row["layer"]).astype(np.float64)
        away = np.sort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)
        logs = np.log(away[:, 2] / away[:, 1])
        assert row["id"] == pytest.approx((N - 1) / logs.sum(), rel=1e-6)
        assert row["error"] == pytest.approx(row["id"] / np.sqrt(N), rel=1e-3)


@pytest.mark.parametrize(
    "asked",
    [
        ("gap",),
        ("overlap", "--roles", "random-text", "-k", "5"),
        pytest.param(("cluster", "--min-size", "5"), marks=pytest.mark.slow),
        pytest.param(("dimension", "--roles", "random-image"), marks=pytest.mark.slow),
        pytest.param(("outliers",), marks=pytest.mark.slow),
    ],
)
def test_several_jobs_give_what_one_gives(store, capsys, asked):
    name, *options = asked
    _, alone, _ = command(capsys, name, store, *options, "--force")
    _, shared, err = command(capsys, name, store, *options, "--force", "--jobs", 2)
    assert shared == alone
    _, _, recalled = command(capsys, name, store, *options, "--jobs", 3)
    assert "saved as" in err
    assert "recalled" in recalled  # jobs are no part of the question


def test_a_worker_says_what_is_wrong(store, capsys):
    status, _, err = command(capsys, "cluster", store, "--metric", "cosine", "--method", "hdbscan", "--jobs", 2)
    assert status == 1
    assert "layer 0: HDBSCAN takes --metric normalised or euclidean" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gap", "--text", "role = 'nope'"], r"no text rows where role = 'nope'; the store has eoi \(image-text\), .*"),
        (["gap", "--text", "role = 'eoi'", "--image", "role = 'eoi'"], "160 rows are on both sides"),
        (["gap", "--image", "role = 'eoi'"], "80 texts and 160 images are not of the same samples.*--pairs all"),
        (["gap", "--text", "rol = 'eoi'"], "no column 'rol'"),
        (["gap", "--drop-dims", "6"], r"no dimension 6: the vectors of .* have 0\.\.5"),
        (["gap", "--drop-dims", "0..5"], "all 6 dimensions would be dropped"),
        (["dimension", "--rank", "12"], "rank 12: Gride compares ranks 2, 4, 8"),
        (["dimension", "--rank", "256"], "rank = 256, but role 'eoi' has 160 samples"),
        (["cluster", "-k", "200"], r"k = 200, but role 'text \+ image' has 160 samples"),
        (["cluster", "--label", "lable"], "no column 'lable' to take labels from, only .*; did you mean 'label'"),
    ],
)
def test_bad_input_is_one_clear_line(store, capsys, arguments, message):
    name, *options = arguments
    status = run([name, str(store), *options])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert re.search(message, err)


def test_a_store_without_two_orders_says_what_to_do(tmp_path, capsys):
    plan = pl.DataFrame({"sample_id": ["a", "b"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2)
    assert run(["gap", str(store.path)]) == 1
    assert "choose its text rows with --text CONDITION" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gap", "cluster", "dimension"])
def test_figures_say_their_values(store, tmp_path, capsys, name):
    options = ["--rank", "8"] if name == "dimension" else ["--reference", "pixtral-12b"]
    assert run([name, str(store), "--figure", str(tmp_path / "f.svg"), *options]) == 0
    drawing = (tmp_path / "f.svg").read_text()
    said = re.findall(r'aria-label="([^"]*layer 2: [^"]*)"', drawing)
    said = [text for text in said if "published" not in text]
    assert said
    assert all(re.search(r"(cosine|homogeneity|dimension) -?\d", text) for text in said)
    whose = "pale: Pixtral-12B as published, at the same relative depth"
    assert (whose in drawing) == (name != "dimension")


def test_charts_side_by_side_have_one_axis():
    table = pl.DataFrame({"condition": "none", "layer": [0, 1], "q25": -0.1, "median": 0.1, "q75": 0.3,
                          "absolute": False, "n_text": 5, "n_image": 5})  # fmt: skip
    other = table.with_columns(q75=pl.lit(0.81))
    svg = charts.svg(gap_figure.gap(table, title="t", tables=[table, other]), "a")
    assert ">0.8<" in svg


def test_a_call_is_written_as_it_was_asked(store):
    call = Gap.of(actstore.open(store), pairs="all", center=True, drop_dims=[3, 0], layers=[1])
    assert call.command(store) == f"actstore gap {store} --layers 1 --center --drop-dims 0,3 --pairs all"
    assert Gap.again(call.parameters) == call


def test_report_shows_what_was_measured(store, tmp_path, capsys):
    for arguments in (["gap", "--pairs", "all"], ["cluster"], ["dimension", "--rank", "8"]):
        assert run([arguments[0], str(store), *arguments[1:]]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "r.html"), "--reference", "pixtral-12b"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("Pale: Pixtral-12B as published, not measured here") >= 3
    assert "Pixtral-12B, layer 40: 0." in page
    for heading in ("Modality gap, all pairs", "Clusters of text + image against", "Intrinsic dimension, rank 8"):
        assert f"<h2>{heading}" in page
    assert "quartiles of the cosines of all pairs" in page
    assert f"actstore gap {store} --layers 0,1,2 --pairs all" in page
    names = {path.name for path in (tmp_path / "r_files").glob("*.csv")}
    assert {"modality-gap-all-pairs.csv", "intrinsic-dimension-rank-8.csv"} <= names
