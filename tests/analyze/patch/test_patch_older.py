"""Texts under a knockout, and patches, of a model whose blocks call their cache layer_past, by the command line."""

import json
from pathlib import Path

import pytest
import torch

import actstore
import tiny
from actstore.commands.main import run
from actstore_extract.interventions.blocks import block_attention, parse_block
from older import older

RECIPE = """
check = false
conditions = [{{ name = "cut", keys = "at-3", queries = "text", mode = "pre" }}]
[model]
path = "{0}/model"
dtype = "float32"
[samples]
source = "table"
path = "{0}/words.csv"
[prompt]
text = "this is a {{word}} , this digit is a"
[capture]
roles = ["all"]
max_new_tokens = 6
"""
SOURCE = ("--source", "from rows where position = 4 and condition = 'none' limit 1", "--role", "at-4")


def made(folder: Path, name: str) -> Path:
    tiny.save(older(name), folder / "model")
    (folder / "words.csv").write_text("sample_id,word\na,one\nb,two\nc,three\n")
    (folder / "recipe.toml").write_text(RECIPE.format(folder))
    assert run(["extract", str(folder / "recipe.toml"), str(folder / "store")]) == 0
    return folder / "store"


@torch.no_grad()
def said(name: str, word: str) -> str:
    """What the model says under the knockout, by a whole forward for each token."""
    model = older(name)
    batch = model.collate([model.encode(tiny.prompts([f"this is a {word} , this digit is a"])[0])])
    tokens = batch.inputs["input_ids"]
    block = parse_block({"keys": "at-3", "queries": "text", "mode": "pre"}, n_layers=4)
    for _ in range(6):
        with block_attention(model, batch, [block]):
            logits = model.module(input_ids=tokens, use_cache=False).logits[:, -1:]
        tokens = torch.cat([tokens, logits.argmax(-1)], 1)
    new, end = tokens[0, batch.n_slots :].tolist(), model.module.generation_config.eos_token_id
    return model.tokenizer.decode(new[: new.index(end)] if end in new else new, skip_special_tokens=True)


def test_texts_and_patches_of_gpt_neox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = made(tmp_path, "gpt_neox")
    texts = actstore.open(store).sql("select word, generated_text from samples where condition = 'cut'").rows()
    assert texts == [(word, said("gpt_neox", word)) for word, _ in texts]
    found = []
    for way in ("packed", "full"):
        capsys.readouterr()
        assert run(["patch", str(store), *SOURCE, "--method", way, "--format", "jsonl"]) == 0
        found.append([json.loads(line)["similarity"] for line in capsys.readouterr().out.splitlines()])
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert len({round(one, 3) for one in found[0]}) > 2


def test_patches_of_gpt_bigcode_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = made(tmp_path, "gpt_bigcode")
    assert run(["patch", str(store), *SOURCE]) == 1
    assert "GPTBigCodeForCausalLM adds its wpe to whatever enters its first block" in capsys.readouterr().err
