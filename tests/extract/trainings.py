"""Small trainings: parts of tiny models in folders, conversations in LLaVA's form, recipes, what is left behind."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel, Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

import tiny
from actstore_extract.families import Model
from actstore_extract.samples.digits import scans
from actstore_extract.training import recipe
from actstore_extract.training.conversations import Turn
from actstore_extract.training.examples import Example
from actstore_extract.training.loss import losses
from actstore_extract.training.recipe import AdapterRecipe, LoraRecipe

CPU = torch.device("cpu")
# Gemma-2's own template, as its checkpoint has it.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
EMU3 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} :"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
MARKS = ["<unused0>", "<start_of_turn>", "<end_of_turn>"]


def words() -> PreTrainedTokenizerFast:
    """The tiny tokenizer with Gemma's marks of turns and its template."""
    made = tiny.tokenizer([*MARKS, "user", "model", "and"])
    made.add_tokens(MARKS[1:], special_tokens=True)
    made.chat_template = GEMMA
    return made


def parts(folder: Path) -> Path:
    """folder/vision and folder/language: CLIP of 16 patches and a Gemma-2 of two layers, with random weights."""
    torch.manual_seed(0)
    tokens = words()
    small = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 12, "num_hidden_layers": 2}
    caps = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
    language = tiny.spread(Gemma2ForCausalLM(Gemma2Config(**tiny.text_config(tokens, **small), **caps)))
    vision = CLIPVisionModel(CLIPVisionConfig(image_size=8, patch_size=2, projection_dim=16, **tiny.SMALL_VISION))
    vision.save_pretrained(folder / "vision")
    tiny.clip_images().save_pretrained(folder / "vision")
    language.save_pretrained(folder / "language")
    tokens.save_pretrained(folder / "language")
    return folder


def said(*turns: str) -> list[dict[str, str]]:
    """Turns of a human and the model, in LLaVA's form."""
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(turns)]


def turns(*texts: str) -> tuple[Turn, ...]:
    """The same, as a conversation holds them."""
    return tuple(Turn(one["from"], one["value"]) for one in said(*texts))


def conversations(folder: Path, count: int = 12, *others: dict[str, Any]) -> Path:
    """A file of conversations about scans, and their images; `others` are records as they are."""
    data = scans()
    records: list[dict[str, Any]] = []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(count):
        data.image(i).save(folder / "images" / f"{i}.png")
        word = data.words[data.labels[i]]
        turns = said("<image>\nthis digit is a", word, "and", f"is {word} .")
        records.append({"id": str(i), "image": f"{i}.png", "conversations": turns[: 2 + 2 * (i % 2)]})
    (folder / "said.json").write_text(json.dumps([*records, *others]))
    return folder / "said.json"


def picture(path: Path) -> None:
    """A picture of 8 x 8 pixels."""
    Image.new("RGB", (8, 8), "white").save(path)


def adapter_recipe(folder: Path, *changes: str) -> AdapterRecipe:
    """A recipe over the parts and conversations in a folder: 6 steps of 4 examples in two epochs."""
    text = f"""
kind = "adapter"
seed = 475
[model]
vision = "{folder}/vision"
language = "{folder}/language"
dtype = "float32"
[data.llava]
source = "llava"
path = "{folder}/said.json"
images = "{folder}/images"
[training]
batch_size = 4
micro_batch = 2
epochs = 2
learning_rate = 1e-2
max_length = 64
checkpoint_every = 2
"""
    (folder / "recipe.toml").write_text(text)
    return recipe.load(str(folder / "recipe.toml"), AdapterRecipe, changes)


def lora_recipe(folder: Path, *changes: str) -> LoraRecipe:
    """A recipe over a tiny Emu3 in folder/emu3: questions about digits."""
    text = f"""
kind = "lora"
seed = 475
[model]
path = "{folder}/emu3"
dtype = "float32"
chat_template = "{EMU3}"
[lora]
rank = 4
alpha = 8
dropout = 0.1
[data.answers]
source = "digits"
split = "train"
limit = 8
prompt = "<image> this digit is a"
answer = "{{label}}"
[training]
batch_size = 4
micro_batch = 2
epochs = 2
learning_rate = 1e-2
weight_decay = 0.0
max_length = 64
checkpoint_every = 2
"""
    (folder / "recipe.toml").write_text(text)
    return recipe.load(str(folder / "recipe.toml"), LoraRecipe, changes)


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Of the adapter in a folder."""
    return load_file(out / "adapter.safetensors")


def log(out: Path) -> pl.DataFrame:
    """The log in a folder, without how long it took."""
    return pl.read_parquet(out / "log.parquet").drop("seconds")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupted_at(step: int) -> Callable[[Model, Sequence[Example]], torch.Tensor]:
    """The loss, with Ctrl-C in the middle of a step of two pieces."""
    seen = 0

    def interrupted(model: Model, examples: Sequence[Example]) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == 2 * step + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return losses(model, examples)

    return interrupted
