"""actstore features: the samples a feature is strongest in, its page, and its form at Neuronpedia."""

import gzip
import json
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import pytest

import actstore
import lenses
import looking
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.report.features import shown
from actstore_analyze.report.features.dashboard import direct_logits
from actstore_analyze.report.features.page import page
from actstore_analyze.sae import neuronpedia
from actstore_analyze.sae.source import Source
from actstore_analyze.sae.strongest import Strongest
from actstore_analyze.sae.tops import Tops
from pages import Page

FEATURES, LAYER = 12, 1
IMAGES = looking.N - 1  # samples that did not fail


def weights():
    rng = np.random.default_rng(5)
    return {
        "W_enc": rng.standard_normal((looking.D, FEATURES)).astype(np.float32),
        "b_enc": np.full(FEATURES, -3, np.float32),
        "W_dec": rng.standard_normal((FEATURES, looking.D)).astype(np.float32),
        "b_dec": rng.standard_normal(looking.D).astype(np.float32),
        "threshold": np.full(FEATURES, 0.5, np.float32),
    }


def encoded(x):
    """Features of vectors, naively: a JumpReLU."""
    before = x.astype(np.float64) @ weights()["W_enc"] + weights()["b_enc"]
    return np.where(before > 0.5, before, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with pictures and a lens, autoencoders of its layer 1, and descriptions of two of their features."""
    folder = tmp_path_factory.mktemp("features")
    looking.make(folder / "s")
    place = folder / "scope" / "layer_0" / "width_12" / "average_l0_3"
    place.mkdir(parents=True)
    np.savez(place / "params.npz", **weights())
    own = folder / "described" / "0-scope"
    for part, line in (("features", {"frac_nonzero": 0.01}), ("explanations", {"description": "cats & <dogs>"})):
        (own / part).mkdir(parents=True)
        text = "".join(json.dumps({"index": str(i), **line}) + "\n" for i in (0, 1, 2, 3))
        (own / part / "batch-0.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return folder


@pytest.fixture(scope="module")
def table(made):
    store = actstore.open(made / "s")
    return Strongest.of(store, saes=str(made / "scope"), layers=[LAYER], top=4).table(store, say=print)


def images():
    """(samples, cells, D) of the image's vectors at the layer."""
    return looking.vectors("image")[LAYER, : IMAGES * 4].reshape(IMAGES, 4, looking.D)


@pytest.mark.parametrize("parts", [1, 3, 17])
def test_tops_of_any_parts_are_those_of_all_at_once(parts):
    rng = np.random.default_rng(parts)
    samples = np.sort(rng.integers(0, 9, 60))
    features = np.maximum(rng.integers(-3, 5, (60, 7)), 0).astype(np.float32)  # many are equal
    tops = Tops(7, 4)
    for own in np.array_split(np.arange(60), parts):
        tops.add(samples[own], features[own])
    for feature in range(7):
        naive = [(int(one), float(features[samples == one, feature].max())) for one in np.unique(samples)]
        expected = sorted((one for one in naive if one[1] > 0), key=lambda one: (-one[1], one[0]))[:4]
        assert tops.strongest(feature) == expected
        assert tops.samples[feature] == sum(value > 0 for _, value in naive)
    assert tops.active.tolist() == (features > 0).sum(axis=0).tolist()


def test_the_table_is_what_the_vectors_say(table):
    features = encoded(images())
    largest = features.max(axis=1)
    assert table["feature"].to_list() == np.flatnonzero(largest.max(axis=0)).tolist()
    for row in table.iter_rows(named=True):
        own = features[..., row["feature"]]
        assert row["active"] == pytest.approx((own > 0).mean())
        assert row["in_samples"] == pytest.approx((largest[:, row["feature"]] > 0).mean())
        assert row["mean"] == pytest.approx(own[own > 0].mean(), rel=1e-5)
        order = np.argsort(-largest[:, row["feature"]], kind="stable")[:4]
        order = order[largest[order, row["feature"]] > 0]
        assert row["top_samples"] == [f"s{i:02}" for i in order]
        assert row["top_activations"] == pytest.approx(largest[order, row["feature"]].tolist(), rel=1e-5)
        labels = [looking.LABELS[i % 3] for i in order]
        assert row["label_share"] == max(map(labels.count, labels)) / len(labels)
        assert labels.count(row["label"]) == max(map(labels.count, labels))


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
def test_what_a_direction_adds_to_the_logits(norm):
    lens = lenses.made(norm, softcap=3.0)
    directions = np.random.default_rng(1).standard_normal((2, lenses.D)).astype(np.float32)
    centred = directions - directions.mean(axis=1, keepdims=True) * (norm == "layernorm")
    expected = (centred * lens.weight) @ lens.unembedding.T * lens.optics.scale
    found = direct_logits(lens, directions)
    said = lens.bias > -np.inf
    assert found[:, said] == pytest.approx(expected[:, said], rel=1e-4, abs=1e-4)
    assert (found[:, ~said] == -np.inf).all()


def test_dashboards_have_the_cells_of_each_picture(made, table):
    store = actstore.open(made / "s")
    call = Strongest.of(store, saes=str(made / "scope"), layers=[LAYER], top=4)
    found = shown.dashboards_of(store, call, table, str(made / "described"))
    assert [one.row["feature"] for one in found] == table["feature"].to_list()
    for one in found:
        feature = one.row["feature"]
        own = encoded(images())[..., feature]
        assert sum(one.histogram.counts) == (own > 0).sum()
        assert one.description == ("cats & <dogs>" if feature < 4 else None)
        assert len(one.likelier) == len(one.less) == 10
        assert one.likelier[0][1] > one.likelier[-1][1] > one.less[-1][1] > one.less[0][1]
        for top in one.top:
            cells = own[int(top.sample_id[1:])]
            assert np.array(top.cells) == pytest.approx(cells.reshape(looking.GRID), abs=2e-5)
            assert top.picture.startswith("data:image/webp")


def test_the_page_and_the_export(made, capsys):
    out = made / "f.html"
    asked = ["features", str(made / "s"), "--saes", str(made / "scope"), "--layers", str(LAYER), "--top", "4"]
    described = ["--descriptions", str(made / "described")]
    assert run([*asked, *described, "--page", str(out), "--neuronpedia", str(made / "v1")]) == 0
    text = out.read_text()
    read = Page(text)
    assert "cats & <dogs>" in read.words
    assert "<dogs>" not in text
    assert not read.loads
    assert {one.removeprefix("#") for one in read.anchors} <= {*read.ids}
    assert '<image href="data:image/webp' in text
    assert "whoever has it sees its pictures" in capsys.readouterr().err
    folder = made / "v1" / "tiny" / f"{LAYER}-scope"
    lines = {
        part: [
            json.loads(line) for line in gzip.decompress((folder / part / "batch-0.jsonl.gz").read_bytes()).splitlines()
        ]
        for part in ("features", "activations", "explanations")
    }
    known = neuronpedia.load(folder)
    told = {int(line["index"]): line for line in lines["features"]}
    assert known.of.keys() == {int(line["index"]) for line in lines["explanations"]} == {one for one in told if one < 4}
    for feature, one in known.of.items():
        assert one.density == told[feature]["frac_nonzero"]
    for line in lines["activations"]:
        assert len(line["tokens"]) == len(line["values"]) == 4
        assert line["values"][line["maxValueTokenIndex"]] == line["maxValue"] == max(line["values"])


def test_features_of_two_prompt_orders_are_told_apart_in_the_contents(made, table):
    store = actstore.open(made / "s")
    call = Strongest.of(store, saes=str(made / "scope"), layers=[LAYER], top=4)
    first, second = shown.dashboards_of(store, call, table.head(2), None)
    orders = [replace(first, row={**first.row, "prompt_order": order}) for order in ("image-text", "text-image")]
    words = Page(page("tiny", "", [*orders, second], [], None)).words
    for name in ("image-text", "text-image"):
        assert f"{LAYER}/{first.row['feature']} {first.row['label']} {name}" in words
    assert f"{LAYER}/{second.row['feature']} {second.row['label']} image-text" not in words


def test_a_page_of_features_of_another_model_says_so(made, table, monkeypatch):
    store = actstore.open(made / "s")
    call = Strongest.of(store, saes=str(made / "scope"), layers=[LAYER], top=4)
    for models, said in (((), False), (("gemma-2-2b",), True)):
        monkeypatch.setattr(Source, "models", models)
        shown.write_page(store, call, table, [], made / "other.html")
        assert ("trained on gemma-2-2b, the store is of tiny" in (made / "other.html").read_text()) == said


def test_what_cannot_be_shown_is_said(made, capsys):
    asked = ["features", str(made / "s"), "--saes", str(made / "scope"), "--layers", str(LAYER)]
    for words, said in (
        (["--feature", "99"], "feature 99 is active nowhere in these rows"),
        (["--page", str(made / "f.pdf")], "the page is one .html file"),
        (["--label", "lable"], "no column 'lable'"),
        (["--roles", "image,eoi", "--neuronpedia", str(made / "v2")], "features of 2 groups of rows"),
    ):
        assert run([*asked, *words]) == 1
        assert said in capsys.readouterr().err
    assert not (made / "v2").exists()


def test_a_store_without_pictures_and_lens_says_so(made, tmp_path):
    looking.make(tmp_path / "bare", kept=False)
    asked = ["features", str(tmp_path / "bare"), "--saes", str(made / "scope"), "--roles", "eoi", "--top", "2"]
    table = Strongest.of(actstore.open(tmp_path / "bare"), saes=str(made / "scope"), roles=["eoi"]).table
    some = table(actstore.open(tmp_path / "bare"), say=print)["feature"].to_list()
    assert run([*asked, "--feature", ",".join(map(str, some)), "--page", str(tmp_path / "f.html")]) == 0
    words = Page((tmp_path / "f.html").read_text()).words
    assert "the store keeps no lens ( capture.lens = true in the recipe)" in words
    assert "what is it" in words
    with pytest.raises(ActstoreError, match="no autoencoder for layer 0"):
        Strongest.of(actstore.open(tmp_path / "bare"), saes=str(made / "scope"), layers=[0])


def test_features_chosen_for_a_page_have_most_in_common():
    row = partial(dict, role="image", prompt_order=None, condition="none", layer=0, in_samples=0.2, samples=100)
    rows = [
        row(feature=0, label_share=0.5, largest=9.0, top_samples=["a"] * 10),
        row(feature=1, label_share=1.0, largest=1.0, top_samples=["a"] * 10),
        row(feature=2, label_share=1.0, largest=2.0, top_samples=["a"] * 10),
        row(feature=3, label_share=1.0, largest=9.0, top_samples=["a"] * 10) | {"in_samples": 0.9},  # everywhere
        row(feature=4, label_share=1.0, largest=9.0, top_samples=["a"] * 3) | {"in_samples": 0.03},  # in too few
    ]
    assert shown.telling(pl.DataFrame(rows), 2)["feature"].to_list() == [2, 1]
