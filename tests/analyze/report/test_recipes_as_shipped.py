"""Every recipe as it ships, through the command line on a tiny model of its family, to what PAPERS.md makes of it.

Changed are the paths, the numbers of samples and tokens, and the size of images; nothing of what is asked, kept or
intervened in. Words of the answers are words of the tiny tokenizers.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers.utils import is_torchvision_available

import layouts
import pictured
import tiny
import tiny_words
from actstore.commands.main import run
from actstore.store import open as open_store
from actstore_extract.families import loading
from actstore_extract.recipe.recipe import load
from actstore_extract.recipe.shelf import shipped
from actstore_extract.samples.synsets import papers
from papers_page import rows
from speaking import speaking

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # of PaliGemma's processor
]

CALLS = {
    recipe: dict.fromkeys(call for row in rows() if recipe in row.recipes for call in row.calls)
    for recipe in {recipe for row in rows() for recipe in row.recipes}
}
EDGES = {"chameleon-7b": 16, "chameleon-34b": 16}  # of pictures, in pixels: 64 tokens, the paper's 32nd among them
RECIPES = sorted(name for name in shipped() if name.partition("/")[0] in {*tiny.OF_RECIPES, "paligemma2-3b"})
FAR = {"at-1025"}  # a position that a tiny image does not reach, but for WIDE's
WIDE = "pixtral-wide"  # 32 lines of 32 tokens, as the paper's pictures have


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Each data set, small; ImageNet with all classes of the paper."""
    root, wnids = tmp_path_factory.mktemp("data"), sorted(papers().wnids.values())
    counts = {"flickr30k": 30, "imagenet": 2}
    paths = {name: root / name for name in layouts.LAYOUTS}
    for name, make in layouts.LAYOUTS.items():
        if name == "imagenet":
            make(paths[name], wnids, counts[name])
        elif name in counts:
            make(paths[name], counts[name])
        else:
            paths[name] = make(paths[name])
    return paths


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each system as a folder, its tokenizer knowing the words of the answers."""
    root, patch = tmp_path_factory.mktemp("models"), pytest.MonkeyPatch()
    tables = [load("chameleon-7b/patching").capture.answers, *papers().words.values()]
    words = [word.strip() for table in tables for word in table.values()]
    patch.setattr(tiny_words, "WORDS", list(dict.fromkeys([*tiny_words.WORDS, *words])))
    for name, system in tiny.OF_RECIPES.items():
        tiny.save(tiny.model(system), root / name)
    paligemma = pictured.paligemma(weights=True)
    tiny.spread(paligemma.module)
    tiny.save(paligemma, root / "paligemma2-3b")
    wide = tiny.model("pixtral")
    wide.module.config.vision_config.image_size = wide.processor.image_processor.size["longest_edge"] = 64
    tiny.save(wide, root / WIDE)
    for name, edge in EDGES.items():
        enlarge(root / name, edge)
    if not is_torchvision_available():  # two processors need it; what stands in for them is held against them elsewhere
        own, stand_ins = loading.AutoProcessor.from_pretrained, {str(root / WIDE): wide.processor}
        for name in ("llava-onevision-7b", "pixtral-12b"):
            stand_ins[str(root / name)] = tiny.SYSTEMS[tiny.OF_RECIPES[name]]()[1]
        patch.setattr(
            loading.AutoProcessor,
            "from_pretrained",
            lambda path, **options: stand_ins[path] if path in stand_ins else own(path, **options),
        )
    yield root
    patch.undo()


def enlarge(folder, edge):
    """Let a model's pictures be of so many pixels."""
    file = folder / "processor_config.json"
    content = json.loads(file.read_text())
    content["image_processor"] |= {"crop_size": {"height": edge, "width": edge}, "size": {"shortest_edge": edge}}
    content["image_seq_length"] = (edge // 2) ** 2
    file.write_text(json.dumps(content))


@pytest.fixture
def extracted(data, models, tmp_path):
    """A recipe run into a store; returns its path."""

    def extract(name, *more):
        recipe = load(name)
        paths = {"model.path": models / name.partition("/")[0], "samples.path": data[recipe.samples.source]}
        small = {"capture.batch_size": 8, "capture.max_new_tokens": min(2, recipe.capture.max_new_tokens)}
        if recipe.samples.source == "imagenet":
            small |= {"samples.per_class": 2, "samples.limit": 40}
        if recipe.samples.resize:
            small["samples.resize"] = 8
        if recipe.model.processor:
            small["model.processor"] = "{ min_pixels = 1024, max_pixels = 1024 }"
        if recipe.model.dtype == "bfloat16":
            small["model.dtype"] = "float32"
        changes = [f"{key}='{value}'" for key, value in paths.items()]
        changes += [f"{key}={value}" for key, value in small.items()]
        words = [word for change in changes for word in ("--set", change)]
        assert run(["extract", name, str(tmp_path / "store"), "--device", "cpu", *words, *more]) == 0
        return tmp_path / "store"

    return extract


def autoencoders(folder, width, blocks):
    """Of every block of a tiny model, one that passes on what is above 0.5, and what its features are said to be."""
    eye, none = np.eye(width, dtype=np.float32), np.zeros(width, np.float32)
    for block in range(blocks):
        (folder / "saes" / f"layer_{block}").mkdir(parents=True)
        weights = {"W_enc": eye, "W_dec": eye, "b_enc": none, "b_dec": none, "threshold": none + 0.5}
        np.savez(folder / "saes" / f"layer_{block}" / "params.npz", **weights)
        said = [
            {"index": str(i), "explanations": [{"description": f"word {i}"}], "frac_nonzero": 0.001}
            for i in range(width)
        ]
        layouts.write_json(folder / "descriptions" / f"layer_{block}" / "batch-0.json", said)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_as_it_ships_to_its_figures(name, extracted, tmp_path, capsys):
    store = extracted(name)
    made, opened = load(name), open_store(store)
    said = opened.sql("from samples")
    assert set(said["status"]) == {"ok"}, said["error"].drop_nulls().to_list()
    assert set(opened.roles) == set(made.capture.roles) - FAR
    if made.capture.answers:
        assert said["answer_probabilities"].null_count() == 0
        tokens = opened.run["answer_tokens"]
        assert len({*tokens.values()}) == len(tokens) == 20
    shutil.copytree(store, tmp_path / "other")
    calls = CALLS[name]
    assert calls, f"PAPERS.md names no command for {name}"
    if any("--saes" in call for call in calls):
        autoencoders(tmp_path, opened.header.d_model, opened.run["n_layers"])
    judged = speaking(lambda body: "5 5" if "[Assistant 1]" in str(body["messages"]) else "Match found: YES")
    with judged as server:
        for call in calls:
            words = as_run(call, tmp_path, name, server.url, data_of(opened))
            capsys.readouterr()
            status = run(words)
            out, err = capsys.readouterr()
            assert status == 0, (words, err)
            assert out.count("\n") >= 1, words
            if "--figure" in words:
                assert Path(words[words.index("--figure") + 1]).stat().st_size > 5_000


def as_run(call, folder, recipe, url, images):
    """The words of a command of the page, its placeholders filled in."""
    places = {
        "STORE": folder / "store",
        "OTHER": folder / "other",
        "SAES": folder / "saes",
        "FOLDER": folder / "descriptions",
        "MODEL": recipe.partition("/")[0],
        "JUDGE": "tiny",
    }
    words = [str(places.get(word, word)) for word in call]
    words = [str(folder / word) if word.endswith(".png") else word for word in words]
    words += ["--base-url", url] if "--judge" in words else []
    words += ["--images", str(images), "--most-images", "1"] if words[0] == "describe" else []
    # Few samples: fewer neighbours than the papers have, and smaller clusters.
    few = {"overlap": ["-k", "2"], "knockout": ["-k", "2"], "cluster": ["-k", "4", "--min-size", "4"]}
    return [*words, *few.get(words[0], [])]


def data_of(store):
    """The folder that the samples' images are in."""
    path = Path(store.run["recipe"]["samples"]["path"])
    return path.parent if path.is_file() else path


@pytest.mark.parametrize("name", ["chameleon-7b/patching", "emu3/patching"])
def test_the_words_of_the_authors_run_too(name, extracted, capsys):
    """Their pieces are words of the tiny tokenizers."""
    store = extracted(name, "--set", "capture.answers=narrow-gate")
    made = open_store(store).run
    assert made["recipe"]["capture"]["answers"] == papers().words[tiny.OF_RECIPES[name.partition("/")[0]]]
    assert len({*made["answer_tokens"].values()}) == 20
    capsys.readouterr()
    assert run(["patch", str(store)]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["n"] for row in found} == {20}
    assert all(row["accuracy"] is not None for row in found)


@pytest.mark.parametrize(("name", "command"), [("overlap", "overlap"), ("knockout-overlap", "knockout")])
def test_pictures_of_32_lines_have_the_1025th_token(name, command, extracted, models, capsys):
    recipe = load(f"pixtral-12b/{name}")
    changes = [f"model.path='{models / WIDE}'", "samples.resize=64", "samples.limit=4", "capture.batch_size=2"]
    opened = open_store(extracted(f"pixtral-12b/{name}", *(word for one in changes for word in ("--set", one))))
    said = opened.sql("from samples")
    assert set(said["status"]) == {"ok"}, said["error"].drop_nulls().to_list()
    assert set(said["grid_rows"]) == set(said["grid_columns"]) == {32}
    assert set(opened.roles) == set(recipe.capture.roles)
    rows = opened.sql("from rows where role = 'at-1025'")
    assert set(rows["position"]) == ({1025} if "at-1025" in recipe.capture.roles else set())
    assert set(rows["modality"]) <= {"image"}
    capsys.readouterr()
    assert run([command, str(opened.path), "-k", "1"]) == 0
    assert "at-1025" in capsys.readouterr().out
