"""What decides a model's numbers beside its weights: kept in the run card, compared on resume, repair and replay."""

import json
import shutil

import pytest
from transformers import Qwen2VLConfig

import actstore
import making
import tiny
from actstore.commands import main
from actstore_extract.families import families, rules_of
from actstore_extract.families.adapter import Adapter, write_adapter
from actstore_extract.run.settings import changed, settings
from actstore_extract.shipped import MODELS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model's folder, and what `actstore extract` made of it."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(MODELS["digits-fusion"], folder / "model")
    words = [
        f"model.path={folder / 'model'}",
        "samples.limit=4",
        "capture.roles=['eoi', 'suffix']",
        "capture.kv=['all']",
    ]
    command = ["extract", "digits-fusion", str(folder / "s"), "--device", "cpu"]
    command += [word for change in words for word in ("--set", change)]
    assert main.run(command) == 0
    return folder, command


@pytest.fixture
def model(made):
    """The folder of the model, put back as it was."""
    folder, _ = made
    kept = {path: path.read_bytes() for path in (folder / "model").iterdir()}
    yield folder / "model"
    for path in (folder / "model").iterdir():
        path.write_bytes(kept[path]) if path in kept else path.unlink()


def edit(path, **changes):
    """Change values of a JSON file; a key with two underscores goes deeper."""
    values = json.loads(path.read_text())
    for key, value in changes.items():
        *above, last = key.split("__")
        target = values
        for name in above:
            target = target[name]
        target[last] = value
    path.write_text(json.dumps(values))


CHANGES = {
    "config.json: rope_parameters.rope_theta: 10000.0 in the store, 10.0 now": (
        "config.json",
        {"rope_parameters__rope_theta": 10.0},
    ),
    "config.json: rms_norm_eps: 1e-05 in the store, 0.5 now": ("config.json", {"rms_norm_eps": 0.5}),
    "config.json: attention_multiplier: None in the store, 2 now": ("config.json", {"attention_multiplier": 2}),
    "merges.txt: None in the store, 'sha256 ": ("merges.txt", "a b"),
    "chat_template.jinja: None in the store, 'sha256 ": ("chat_template.jinja", "{{}}"),
    "tokenizer.json: 'sha256 ": ("tokenizer.json", "{}"),
    "tokenizer_config.json: bos_token: '<s>' in the store, '</s>' now": (
        "tokenizer_config.json",
        {"bos_token": "</s>"},
    ),
    "processor_config.json: image_processor.do_rescale: True in the store, False now": (
        "processor_config.json",
        {"image_processor__do_rescale": False},
    ),
}


@pytest.mark.parametrize("said", CHANGES)
def test_what_changes_the_numbers_is_named_and_refused(made, model, capfd, said):
    name, change = CHANGES[said]
    (model / name).write_text(change) if isinstance(change, str) else edit(model / name, **change)
    assert main.run(made[1]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert "was made otherwise; go on with what made it" in lines[-2]
    assert lines[-1].startswith(f"  {said}")


def test_remarks_on_the_files_do_not_count(made, model, capfd):
    edit(
        model / "config.json", transformers_version="4.1", torch_dtype="float32", dtype=None, _name_or_path="elsewhere"
    )
    edit(model / "tokenizer_config.json", name_or_path="elsewhere", no_token=None)
    edit(model / "generation_config.json", temperature=0.3)  # nothing is generated
    assert main.run(made[1]) == 0
    assert "0 of 4 samples left" in capfd.readouterr().err


def test_a_long_table_is_one_hash(model):
    before = settings(str(model))
    assert [key for key in before if "vocabulary_map" in key] == ["config.json: vocabulary_map"]
    edit(model / "config.json", **{"vocabulary_map__<image>": 6})
    after = settings(str(model))
    assert {key for key in before if before[key] != after[key]} == {"config.json: vocabulary_map"}


def test_generation_counts_where_texts_are_kept(made, model):
    edit(model / "generation_config.json", repetition_penalty=1.5)

    def kept(**asked):
        return [key for key in settings(str(model), **asked) if key.startswith("generation_config.json")]

    assert "generation_config.json: repetition_penalty" in kept(generation="checkpoint")
    for way in ("greedy", {"repetition_penalty": 1.2}):
        assert kept(generation=way) == ["generation_config.json: eos_token_id"]
    assert not [key for key in settings(str(model)) if key.startswith("generation_config.json")]


def test_recompute_names_it_and_repair_and_replay_refuse_it(made, model, tmp_path, capfd):
    path = shutil.copytree(made[0] / "s", tmp_path / "s")
    (next(path.glob("parts/*")) / "rows.parquet").unlink()
    edit(model / "config.json", rope_parameters__rope_theta=10.0)
    assert main.run(["repair", str(path), "--device", "cpu"]) == 1
    said = capfd.readouterr().err
    assert "was made with another model than that in" in said
    assert "config.json: rope_parameters.rope_theta: 10000.0 in its run card, 10.0 here" in said
    assert not list(path.glob("commits/c*"))
    assert main.run(["recompute", str(made[0] / "s"), "-n", "2", "--device", "cpu"]) == 1
    said = capfd.readouterr().err
    assert "config.json: rope_parameters.rope_theta differs: 10000.0 then, 10.0 now" in said
    assert "away from what is stored" in said
    patch = ["patch", str(made[0] / "s"), "--pairs", "one:three"]
    assert main.run(patch) == 1
    assert "is not set up as the one that made the store: config.json: rope_parameters" in capfd.readouterr().err


def test_an_older_card_lacks_them_and_goes_on(made, model, tmp_path):
    path = shutil.copytree(made[0] / "s", tmp_path / "s")
    run = actstore.open(path).run
    del run["settings"]
    making.change(path / "actstore.json", run=run)
    header = json.loads((path / "actstore.json").read_bytes())["crc32c"]
    making.change(making.record(path, 0), store=header)
    edit(model / "config.json", rms_norm_eps=0.5)
    command = [str(path) if word == str(made[0] / "s") else word for word in made[1]]
    assert main.run(command) == 0


def test_a_model_of_parts_says_whose_value_it_is(tmp_path):
    tiny.save(tiny.model("clip_gemma"), tmp_path)
    before = settings(str(tmp_path))
    assert before["language/config.json: final_logit_softcapping"] == 5.0
    assert before["vision/config.json: patch_size"] == 2
    assert before["parts.toml: family"] == "clip_gemma"
    assert not any(str(value).startswith(("language", str(tmp_path))) for value in before.values())
    (tmp_path / "elsewhere").mkdir()  # where no pattern of weights finds it
    adapter = tmp_path / "elsewhere" / "adapter.safetensors"
    (tmp_path / "adapter.safetensors").rename(adapter)
    parts = (tmp_path / "parts.toml").read_text().replace('"adapter.', '"elsewhere/adapter.')
    (tmp_path / "parts.toml").write_text(parts)
    assert settings(str(tmp_path)) == before
    write_adapter(adapter, Adapter(tiny.clip_gemma_parts()[2], "sqrt(d)"))
    changed = settings(str(tmp_path))
    assert {key for key in before if before[key] != changed[key]} == {"parts.toml: adapter"}
    (tmp_path / "parts.toml").write_text(parts + 'scale = "1"\n')
    assert settings(str(tmp_path))["parts.toml: scale"] == "1"


def test_a_store_whose_roles_were_found_by_other_rules_is_refused(made, capfd, monkeypatch):
    """On resume, and to run samples of it again: a role would be of other tokens, and nothing would say so."""
    folder, command = made
    monkeypatch.setattr(type(families()["chameleon"]), "rules", 2)
    assert main.run(command) == 1
    assert "rules_of_roles: 1 in the store, 2 now" in capfd.readouterr().err
    assert main.run(["recompute", str(folder / "s")]) == 1
    assert "roles of such samples were found by other rules (1 in its run card, 2 here)" in capfd.readouterr().err


def test_rules_of_roles(tmp_path):
    """A model without images has the first, as every card that does not say, and so has one where all are the same."""
    for name in ("llama", "llava_gemma", "chameleon"):
        tiny.save(tiny.model(name), tmp_path / name)
    Qwen2VLConfig(architectures=["Qwen2VLForConditionalGeneration"]).save_pretrained(tmp_path / "qwen2_vl")
    found = {name: rules_of(str(tmp_path / name), None) for name in ("llama", "llava_gemma", "chameleon", "qwen2_vl")}
    assert found == {"llama": 1, "llava_gemma": 1, "chameleon": 1, "qwen2_vl": 2}
    weights = {"weights_sha256": "a", "processor_sha256": "b"}
    now = {**weights, "settings": {}, "rules_of_roles": 2}
    assert changed({**weights, "settings": {}}, now) == changed(weights, now) == {"rules_of_roles": (1, 2)}
    assert changed({**weights, "rules_of_roles": 2}, now) == {}
