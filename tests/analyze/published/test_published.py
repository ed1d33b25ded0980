"""What the papers published: of which models, how exactly, and which stores it stands beside."""

import json
import re

import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.charts import charts
from actstore_analyze.knockout.table import Side, side_by_side
from actstore_analyze.published import curves, models, stated
from actstore_analyze.sae import figure as sae_figures
from actstore_analyze.score.board import boards
from actstore_analyze.study.subjects import subjects
from actstore_extract.recipe.recipe import load
from actstore_extract.recipe.shelf import shipped
from knockouts import make_store
from two_sided import make

# A model that ships in recipes, and its own name on the hub.
PATHS = {name.partition("/")[0]: load(name).model.path for name in shipped() if "/" in name}


@pytest.mark.parametrize("name", [name for name in models.MODELS if name != "clip-gemma-2-2b"])
def test_a_model_is_known_by_its_id_whatever_the_case(name):
    for one in models.MODELS[name].ids:
        assert models.of_run({"model": one.upper()}) == name
        assert models.key(one) == models.key(one.rpartition("/")[2]) == models.key(models.MODELS[name].name) == name


@pytest.mark.parametrize("name", [name for name in models.MODELS if name in PATHS])
def test_sizes_are_those_of_the_recipes(name):
    facts = shipped()[next(one for one in shipped() if one.startswith(f"{name}/"))].facts
    known = models.MODELS[name]
    assert (known.layers, known.width) == (facts["layers"], facts["width"])


def test_a_folder_is_known_by_its_recipe_and_size_and_never_by_its_name():
    card = {"model": "/data/x", "recipe_name": "chameleon-34b/knockout-vqa", "n_layers": 48, "d_model": 8192}
    assert models.of_run(card) == "chameleon-34b"
    assert models.of_run({**card, "d_model": 4096}) is None
    assert models.of_run({**card, "recipe_name": "mine"}) is None
    assert models.of_run({"model": "/data/chameleon-7b", "n_layers": 32, "d_model": 4096}) is None
    assert models.of_run({"model": "some/chameleon-7b"}) is None
    assert models.of_run({}) is None
    successor = {"model": "deepseek-community/Janus-Pro-1B", "revision": "d5bc3", "recipe_name": "janus-1.3b/vqa"}
    assert models.of_run({**successor, "n_layers": 24, "d_model": 2048}) is None


def test_an_unknown_model_shows_the_nearest():
    with pytest.raises(ActstoreError, match=r"neither paper is about 'emo3'.*did you mean 'emu3'\?"):
        models.key("emo3")


def test_the_table_of_knockouts_has_the_published_values_of_the_model_and_not_of_its_folder(tmp_path):
    for name, model in {"hub": "facebook/chameleon-30b", "folder": "/data/chameleon-34b"}.items():
        path = make_store(tmp_path / name, source="imagenet", model=model)
        table = pl.read_parquet(_saved(path))
        text = side_by_side([Side(actstore.open(path), table)]).filter(knockout="eoi").row(0)[2]
        assert text.endswith(" [0.00]") == (name == "hub"), text


def _saved(path):
    assert run(["knockout", str(path), "-k", "5", "-o", str(path.with_suffix(".parquet"))]) == 0
    return path.with_suffix(".parquet")


def test_what_is_not_a_curve_is_drawn_as_points_and_says_where_it_is_from(tmp_path, capsys):
    store = make(tmp_path / "s")
    for model, alone in (("chameleon-7b", False), ("emu3", True)):
        assert run(["gap", str(store), "--reference", model, "--figure", str(tmp_path / "f.svg")]) == 0
        drawing = (tmp_path / "f.svg").read_text()
        # Own line, and the published one unless its points stand alone.
        assert len(re.findall(r'class="mark-line role-mark', drawing)) == 1 + (not alone)
        assert ("its text, both ends alone, to about 0.05" in drawing) == alone
    capsys.readouterr()
    assert run(["gap", str(store), "--reference", "janus-1.3b", "--figure", str(tmp_path / "f.svg")]) == 0
    assert "--reference janus-1.3b: we do not have what was published of this" in capsys.readouterr().err


def test_every_number_says_how_exact_it_is():
    for measure in (curves.gap, curves.homogeneity, curves.overlap, curves.windows, curves.patching):
        for name in models.MODELS:
            found = measure(name)
            if found is not None:
                assert {"model", "depth", "value", "said", "alone"} <= {*found.columns}
                assert found["said"].str.contains("about|its text|its table").all()
                assert found["depth"].is_between(0, 1).all()
    assert curves.overlap("emu3").select("role", "layer", "value").rows() == [("eoi", 10, 0.3), ("eoi", 32, 0.3)]
    assert curves.windows("janus-1.3b").filter(knockout="image-knockout")["value"].to_list() == [0.65, 0.06]


def test_the_other_paper(tmp_path):
    """Its figures: points at the layer that follows the block; its table: scores as shares."""
    found = stated.autoencoders("sae", "clip-gemma-2-2b")
    first = found.filter(metric="mse", group="image").row(0, named=True)
    assert (first["layer"], first["depth"], first["value"]) == (1, 1 / 26, 115)
    assert stated.autoencoders("sae", "emu3") is None
    scores = stated.benchmarks("clip-gemma-2-2b")
    assert dict(scores.filter(task="llava-bench").select("split", "published").iter_rows())["all"] == 0.503
    assert stated.benchmarks("emu3").height == 0
    names = dict.fromkeys(("role", "prompt_order", "condition", "control"), "none")
    counts = dict.fromkeys(("n", "samples", "n_features"), 5)
    numbers = {name: 0.1 for name, *_ in sae_figures.PANELS}
    row = {**names, **numbers, **counts, "average": "example"}
    table = pl.DataFrame([{**row, "layer": 0, "depth": 0.0}, {**row, "layer": 26, "depth": 1.0}])
    drawing = charts.svg(sae_figures.rebuilt(table, title="t", reference=found), "a")
    marked = re.findall(r'aria-label="([^"]*published, not measured here\))"', drawing)
    assert len(marked) == found.height
    assert "CLIP-Gemma-2-2B-it, layer 1: 115.0 (published, not measured here)" in marked


def test_scores_stand_beside_the_published_ones(tmp_path, capsys):
    path = make_store(tmp_path / "s", texts=True, labels=False, source="coco", model="facebook/chameleon-7b")
    assert run(["score", str(path), "--task", "cider", "--reference", "chameleon-7b"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    published = {(row["condition"], row["metric"]): row["published"] for row in rows if row["published"] is not None}
    assert published == {("none", "cider"): 0.48, ("eoi-knockout-w2", "cider"): 0.04}
    (board,) = boards(subjects([actstore.open(path)]), say=print)
    cells = dict(board.side_by_side.select("condition", "CIDEr").iter_rows())
    assert cells["none"].endswith(") [0.480]")
    assert cells["eoi-knockout-w2"].endswith(") [0.040]")
    assert not cells["eoi-knockout-w1"].endswith("]")
