"""Texts that a run generates: by what, as the recipe says and the run card keeps."""

import json

import pytest
import torch

import actstore
import making
import tiny
from actstore.commands import main
from actstore.format.names import HEADER

RECIPE = """
check = false
[model]
path = "model"
[samples]
source = "table"
path = "texts.jsonl"
[prompt]
text = "{text}"
[capture]
roles = ["last"]
max_new_tokens = 6
"""
TEXTS = ["this digit is a", "one two this is a one", "a is"]
PENALTY = 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose generation config has a penalty, the recipe, and a store of plain greedy texts."""
    folder = tmp_path_factory.mktemp("generated")
    model = tiny.model("llama")
    model.module.generation_config.repetition_penalty = PENALTY
    tiny.save(model, folder / "model")
    lines = [json.dumps({"sample_id": text, "text": text}) + "\n" for text in TEXTS]
    (folder / "texts.jsonl").write_text("".join(lines))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def extract(path, *changes):
    sets = [word for change in changes for word in ("--set", change)]
    return main.run(["extract", "recipe.toml", str(path), "--device", "cpu", *sets])


def said(path):
    return dict(actstore.open(path).sql("select sample_id, generated_text from samples").iter_rows())


@torch.no_grad()
def expected(penalty):
    """What is most probable, token by token and without a cache, where what was said is divided by a penalty."""
    model, texts = tiny.model("llama"), {}
    for text in TEXTS:
        tokens = model.tokenizer(text, return_tensors="pt")["input_ids"]
        start, end = tokens.shape[1], model.module.generation_config.eos_token_id
        while tokens.shape[1] < start + 6 and tokens[0, -1] != end:
            logits = model.module(tokens).logits[0, -1]
            seen = tokens[0].unique()
            logits[seen] = torch.where(logits[seen] < 0, logits[seen] * penalty, logits[seen] / penalty)
            tokens = torch.cat([tokens, logits.argmax()[None, None]], 1)
        texts[text] = model.tokenizer.decode(tokens[0, start:], skip_special_tokens=True).strip()
    return texts


def test_plain_greedy_unless_the_checkpoint_is_followed(folder, tmp_path, capsys):
    assert extract(tmp_path / "plain") == 0
    err = capsys.readouterr().err
    assert 'not followed of the model\'s generation config: repetition_penalty = 5.0; generation = "checkpoint"' in err
    assert said(tmp_path / "plain") == expected(1.0)
    assert extract(tmp_path / "own", "capture.generation=checkpoint") == 0
    assert "not followed" not in capsys.readouterr().err
    assert said(tmp_path / "own") == expected(PENALTY) != expected(1.0)
    assert extract(tmp_path / "table", "capture.generation={ repetition_penalty = 1.3 }") == 0
    assert said(tmp_path / "table") == expected(1.3)
    cards = {name: actstore.open(tmp_path / name).run for name in ("plain", "own", "table")}
    found = {name: card["generation"].get("repetition_penalty") for name, card in cards.items()}
    assert found == {"plain": None, "own": PENALTY, "table": 1.3}
    assert cards["plain"]["generation"]["eos_token_id"] == cards["own"]["generation"]["eos_token_id"]
    assert cards["plain"]["recipe"]["capture"]["generation"] == "greedy"


def test_what_was_in_force_is_compared_on_resume(folder, tmp_path, capsys):
    assert extract(tmp_path / "s", "samples.limit=2", "capture.generation=greedy") == 0
    assert extract(tmp_path / "s", "samples.limit=2", "capture.generation=checkpoint") == 1
    assert "capture.generation: 'greedy' in the store, 'checkpoint' now" in capsys.readouterr().err
    config = folder / "model" / "generation_config.json"
    kept = config.read_text()
    try:
        config.write_text(json.dumps(json.loads(kept) | {"repetition_penalty": 2.0}))  # which nothing follows
        assert extract(tmp_path / "s", "samples.limit=2") == 0
        config.write_text(json.dumps(json.loads(kept) | {"eos_token_id": 5}))
        assert extract(tmp_path / "s", "samples.limit=2") == 1
        assert "generation_config.json: eos_token_id: " in capsys.readouterr().err
    finally:
        config.write_text(kept)


def older(path):
    """The store as if the version that wrote it had not known of the key."""
    run = actstore.open(path).run
    del run["recipe"]["capture"]["generation"], run["generation"]
    commit = making.record(path, 0)
    making.change(path / HEADER, run=run)
    making.change(commit, store=json.loads((path / HEADER).read_bytes())["crc32c"])


def test_an_older_store_followed_its_checkpoint(folder, tmp_path, capsys):
    path = tmp_path / "s"
    assert extract(path, "capture.generation=checkpoint", "capture.part_samples=2") == 0
    older(path)
    making.record(path, 1).unlink()
    assert extract(path, "capture.generation=greedy", "capture.part_samples=2") == 1
    assert "capture.generation: 'checkpoint' in the store, 'greedy' now" in capsys.readouterr().err
    assert extract(path, "capture.part_samples=2") == 0  # goes on as it was
    (next(path.glob("parts/b00000000*")) / "rows.parquet").unlink()
    assert main.run(["repair", str(path), "--device", "cpu"]) == 0
    assert main.run(["recompute", str(path), "-n", "3", "--device", "cpu"]) == 0
    assert said(path) == expected(PENALTY)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sampled", '\'sampled\' is neither "greedy" nor "checkpoint" nor a table'),
        ("{ do_sample = true }", "no option of greedy generation is called 'do_sample'"),
        ("{ repetition_penalt = 2.0 }", "'repetition_penalt'; did you mean 'repetition_penalty'"),
        ("{ repetition_penalty = 'much' }", "cannot generate by [capture] generation: "),
    ],
)
def test_what_is_no_way_to_generate(tmp_path, capsys, given, message):
    assert extract(tmp_path / "s", f"capture.generation={given}") == 1
    assert message in capsys.readouterr().err
