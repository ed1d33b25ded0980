"""Code that a checkpoint brings along: never run unasked, nobody is asked for it, and a recipe alone allows it."""

import ast
import json
from pathlib import Path

import pytest
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import actstore
import actstore_extract
import tiny
from actstore.errors import ActstoreError
from actstore_extract.again.recompute import recompute
from actstore_extract.families import LoadError, load
from actstore_extract.families.halves import language_model, vision_tower
from actstore_extract.recipe import recipe
from actstore_extract.replay import ReplayError
from actstore_extract.replay.checkpoint import recorded_decoder
from actstore_extract.replay.decoder import load_decoder
from actstore_extract.run.runner import Run

CONFIGURATION = """
from transformers import LlamaConfig

class MineConfig(LlamaConfig):
    model_type = "mine"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_mine import MineConfig

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""
RECIPE = """
[model]
path = "{path}"
dtype = "float32"

[samples]
source = "table"
path = "{table}"

[prompt]
text = "{{question}}"

[capture]
roles = ["last"]
"""
REFUSED = r"brings code of its own, which is not run unasked: .*\[model\] remote_code = true"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of a class that Transformers does not have; whoever asks on the terminal fails."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    folder, words = tmp_path / "mine", tiny.tokenizer([])
    config = LlamaConfig(**tiny.text_config(words) | {"num_hidden_layers": 2})
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    said = json.loads((folder / "config.json").read_text())
    said |= {"model_type": "mine", "architectures": ["MineForCausalLM"]}
    said["auto_map"] = {"AutoConfig": "configuration_mine.MineConfig"}
    said["auto_map"]["AutoModelForCausalLM"] = "modeling_mine.MineForCausalLM"
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "configuration_mine.py").write_text(CONFIGURATION)
    (folder / "modeling_mine.py").write_text(MODELING)
    return folder


def extracted(mine: Path, *changes: str) -> tuple[Path, list[str]]:
    """A store of two samples, and what was said."""
    table, file, said = mine.parent / "samples.csv", mine.parent / "recipe.toml", list[str]()
    table.write_text("sample_id,question\na,this digit is a\nb,one two\n")
    file.write_text(RECIPE.format(path=mine, table=table))
    Run(recipe.load(str(file), changes), say=said.append).extract(mine.parent / "store")
    return mine.parent / "store", said


def test_nothing_runs_it_unasked(mine: Path) -> None:
    for run in (
        load,
        load_decoder,
        lambda path: language_model(path, None),
        lambda path: vision_tower(path, None, None),
    ):
        with pytest.raises(LoadError, match=REFUSED):
            run(str(mine))
    with pytest.raises(LoadError, match=REFUSED):
        extracted(mine)
    assert not (mine.parent / "store").exists()
    assert not (mine.parent / "modules" / "transformers_modules").exists()


def test_a_recipe_allows_it_and_a_store_does_not(mine: Path) -> None:
    store, said = extracted(mine, "model.remote_code=true")
    assert any("Python code that this checkpoint brings along runs here" in line for line in said)
    run = actstore.open(store).run
    assert run["recipe"]["model"]["remote_code"] is True
    assert run["code"].startswith("transformers_modules.")
    assert run["code"].endswith("modeling_mine.MineForCausalLM")
    with pytest.raises(ActstoreError, match=REFUSED):
        recompute(store, n=1)
    with pytest.raises(ReplayError, match="brings along, which a replay does not run"):
        recorded_decoder(run)
    done = recompute(store, n=2, overrides=["model.remote_code=true"])
    assert done.worst is None
    assert done.table["furthest"].max() == 0.0


def test_other_code_is_another_model(mine: Path) -> None:
    extracted(mine, "model.remote_code=true")
    with (mine / "modeling_mine.py").open("a") as file:
        file.write("# another\n")
    with pytest.raises(actstore.PlanError, match=r"modeling_mine\.py: 'sha256 .* in the store"):
        extracted(mine, "model.remote_code=true")


def test_every_call_of_transformers_says_whether_it_may() -> None:
    """Left out, Transformers asks on the terminal."""
    autos = {name for name in dir(transformers) if name.startswith("Auto")}
    silent = []
    for path in Path(actstore_extract.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr == "from_pretrained" and getattr(node.func.value, "id", None) in autos:
                said = {keyword.arg for keyword in node.keywords}
                silent += [f"{path.name}:{node.lineno}"] * (not said & {"trust_remote_code", None})
    assert silent == []
