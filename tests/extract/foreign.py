"""Files as other tools write them: by the tools themselves where they are installed, else as their sources say."""

import io
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import torch

import actstore
from actstore.commands.main import run
from actstore.maintain import verify

SAMPLES, BLOCKS, WIDTH = 4, 2, 8
LABELS = "sample_id,label\n" + "".join(f"s{i},{'cat' if i % 2 else 'dog'}\n" for i in range(SAMPLES))


def points(positions: int, dtype: torch.dtype = torch.float32, samples: int = SAMPLES) -> torch.Tensor:
    """Residual points (blocks + 1, samples, positions, width), in which every number is another one."""
    shape = (BLOCKS + 1, samples, positions, WIDTH)
    numbers = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float32).reshape(shape)
    return (numbers / 8).to(dtype)


def easyroutine(folder: Path, *, averaged: bool = False, **changed: Any) -> torch.Tensor:
    """A run of easyroutine by its own cache: last, end-image and the text, one sample a forward; its points."""
    from easyroutine.interpretability.activation_cache import ActivationCache

    tokens = ["last", "end-image", "all-text"]
    x = points(3 if averaged else 4, torch.bfloat16)
    mapping = {"last": [0], "end-image": [1], "all-text": [2] if averaged else [2, 3]}
    whole = ActivationCache()
    for sample in range(SAMPLES):
        cache = ActivationCache()
        for layer in range(BLOCKS):
            for name, value in ((f"resid_in_{layer}", x[layer]), (f"resid_out_{layer}", x[layer + 1])):
                one = value[sample : sample + 1]
                cache.add_with_info(name, one, "averaged") if averaged else cache.__setitem__(name, one)
            cache[f"mlp_out_{layer}"] = torch.zeros(1, 4, WIDTH)
        cache["mapping_index"] = {**mapping, **({"info": "avg"} if averaged else {})}
        cache["token_dict"] = {"last": [6 + sample], "end-image": [3], "all-text": [0, 5 + sample]}
        whole.cat(cache)
    metadata = {"model_name": "facebook/chameleon-7b", "target_token_positions": tokens, "interventions": None}
    whole.add_metadata(tokens, metadata["model_name"], {"avg": averaged}, None)
    folder.mkdir(parents=True)
    torch.save(whole, folder / "tensor.pt")
    (folder / "metadata.json").write_text(json.dumps({**metadata, **changed}))
    return x


def saev(folder: Path, *, cls: bool = True, version: int = 2, per_shard: int = 3, **changed: Any) -> torch.Tensor:
    """Shards as saev's protocol says: float32 [example, layer, token, d], the last file as long as the others."""
    names = {
        1: ("vit_ckpt", "n_patches_per_img", "d_vit", "n_imgs", "n_patches_per_shard"),
        2: ("ckpt", "patches_per_ex", "d_model", "n_ex", "patches_per_shard"),
        3: ("ckpt", "content_tokens_per_example", "d_model", "n_examples", "max_tokens_per_shard"),
    }[version]
    x = points(3)[1:]
    tokens = x.shape[2]
    values = ("ViT-B-16/openai", tokens - cls, WIDTH, SAMPLES, per_shard * tokens * BLOCKS)
    folder.mkdir(parents=True)
    metadata = {**dict(zip(names, values, strict=True)), "layers": [0, 1], "cls_token": cls, "dtype": "float32"}
    (folder / "metadata.json").write_text(json.dumps({**metadata, **changed}))
    for number in range(-(-SAMPLES // per_shard)):
        shard = np.zeros((per_shard, BLOCKS, tokens, WIDTH), np.float32)
        part = x[:, number * per_shard : (number + 1) * per_shard].permute(1, 0, 2, 3).numpy()
        shard[: len(part)] = part
        shard.tofile(folder / f"acts{number:06d}.bin")
    return x


def vlm_lens(path: Path, *, pooled: bool = True, module: str = "language_model.model.layers.{}") -> torch.Tensor:
    """A database as vlm-lens' base model makes it: a row for each module, picture and prompt."""
    x = points(1 if pooled else 3)[1:]
    database = sqlite3.connect(path)
    database.execute(
        "CREATE TABLE tensors (id INTEGER PRIMARY KEY, name TEXT NOT NULL, architecture TEXT NOT NULL, "
        "timestamp DATETIME DEFAULT CURRENT_TIMESTAMP, image_path TEXT NULL, image_id INTEGER NULL, "
        "prompt TEXT NOT NULL, label TEXT NULL, layer TEXT NOT NULL, pooling_method TEXT NULL, "
        "tensor_dim INTEGER NOT NULL, tensor BLOB NOT NULL)"
    )
    for sample in range(SAMPLES):
        for block in range(BLOCKS):
            held = io.BytesIO()
            torch.save(x[block, sample] if pooled else x[block, sample][None], held)
            columns = (
                "name, architecture, image_path, image_id, prompt, label, layer, pooling_method, tensor_dim, tensor"
            )
            values = ("llava", "llava", f"/p/{sample}.jpg", sample, "What is it?", "cat" if sample % 2 else "dog")
            rest = (module.format(block), "mean" if pooled else None, WIDTH, held.getvalue())
            marks = ", ".join("?" * 10)
            database.execute(f"INSERT INTO tensors ({columns}) VALUES ({marks})", (*values, *rest))
    database.commit()
    database.close()
    return x


def imported(source: Path, store: Path, kind: str, *options: object) -> actstore.Store:
    """The store that the command makes, which is good, measured like any other, and no other if made again."""
    words = ["import", str(source), str(store), "--as", kind, *map(str, options)]
    assert run(words) == 0
    made = actstore.open(store)
    assert verify.run(verify.steps(store)) == []
    assert run(words) == 0
    assert actstore.open(store).state == made.state
    return made


def vectors(store: actstore.Store, role: str, layer: int) -> np.ndarray:
    """The vectors of a role by sample, and within one by position."""
    return store.residual(store.sql("from rows where role = $r order by sample_id, k", {"r": role}), layer)
