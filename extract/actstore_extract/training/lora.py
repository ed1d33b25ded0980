"""LoRA training: small updates of the decoder's linear maps teach a model to answer, its own weights frozen."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from actstore.errors import nearest
from actstore.storage import local
from actstore_extract.families import LoadError, Model, load
from actstore_extract.families.adapter import digest
from actstore_extract.families.pretrained import quiet
from actstore_extract.interventions.blocks import always_blocked
from actstore_extract.run.fingerprint import fingerprint
from actstore_extract.run.settings import settings
from actstore_extract.shipped import located
from actstore_extract.training.examples import Encoder
from actstore_extract.training.loop import Done, Learner
from actstore_extract.training.recipe import LoraModel, LoraRecipe, LoraSection

__all__ = ["learner", "write", "written"]

PARTS, TRAINING = "parts.toml", "training.json"
_DRAFT = ".model"  # hidden, so that a folder that was left half written is still ours


def learner(recipe: LoraRecipe, device: torch.device) -> tuple[Learner, PeftModel]:
    """The model with LoRA in its decoder, which alone learns, in float32; and what keeps or merges it."""
    section = recipe.model
    path = _path(section)
    model = load(
        path,
        family=section.family,
        dtype=section.dtype,
        device=str(device),
        revision=section.revision,
        settings=section.processor,
    )
    always_blocked(model, section.blocked)
    facts = {**fingerprint(path, section.revision), "digest": digest(model.module)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        tuned = _tuned(model, recipe.lora)
    model.module.eval()
    for name, module in model.module.named_modules():
        if "lora_dropout" in name:
            module.train()
    weights = {name: weight for name, weight in model.module.named_parameters() if weight.requires_grad}
    if section.chat_template is not None:
        model.processor.chat_template = section.chat_template
    encode = Encoder(model, recipe.training.max_length, image_first=False)
    return Learner(model, weights, encode, facts, settings(path, section.revision)), tuned


def write(recipe: LoraRecipe, trained: Learner, tuned: PeftModel, done: Done, out: Path, *, merge: bool) -> None:
    """A checkpoint with the updates merged in, or peft's files and a `parts.toml` that names the model they belong to:
    either way `out` is a model to extract from, and what another call wrote otherwise is gone."""
    losses = [row.loss for row in done.log if row.loss is not None]
    draft = out / _DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    if merge:
        merged = cast(nn.Module, tuned.merge_and_unload())
        with local.naming(out):
            merged.save_pretrained(draft)  # type: ignore[operator]
            trained.model.processor.save_pretrained(draft)
    else:
        with local.naming(out):
            tuned.save_pretrained(str(draft))
        entries = {"family": trained.model.family, "model": _entry(recipe.model, out), "lora": "."}
        (draft / PARTS).write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in entries.items()))
    facts: dict[str, Any] = {
        "recipe_name": recipe.name,
        "recipe": recipe.record(),
        "base": trained.facts,
        "steps": done.steps,
        "last_loss": losses[-1] if losses else None,
        "merged": merge,
        "files": sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file()),
    }
    for name in _said(out).get("files", []):
        (out / name).unlink(missing_ok=True)
    (out / TRAINING).write_text(json.dumps(facts, indent=2) + "\n")
    for name in facts["files"]:
        (out / name).parent.mkdir(exist_ok=True)
        local.open_to_readers(draft / name)
        local.replace(out / name, draft / name)
    shutil.rmtree(draft)


def written(out: Path, *, merge: bool) -> bool:
    """Whether a finished training has left all that `write` writes."""
    said = _said(out)
    return said.get("merged") == merge and all((out / name).is_file() for name in said["files"])


def _said(out: Path) -> dict[str, Any]:
    """What is known of the files that were written before."""
    try:
        found: dict[str, Any] = json.loads((out / TRAINING).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


def _path(section: LoraModel) -> str:
    return located(section.path)


def _entry(section: LoraModel, out: Path) -> str:
    """The model as the parts file names it: a folder seen from there, or a name with its revision."""
    if Path(section.path).is_dir():
        return os.path.relpath(section.path, out)
    return f"{section.path}@{section.revision}" if section.revision else section.path


def _tuned(model: Model, section: LoraSection) -> PeftModel:
    """LoRA put into the blocks of the decoder, and nowhere else: encoders of images have maps of the same names."""
    inside = next(name for name, module in model.module.named_modules() if module is model.layers)
    known = {name.rpartition(".")[2] for name, one in model.layers.named_modules() if isinstance(one, nn.Linear)}
    for target in section.targets:
        if target not in known:
            hint = nearest(target, sorted(known), f"there is {', '.join(sorted(known))}")
            raise LoadError(f"[lora] targets: no block has a map {target!r}{hint}")
    config = LoraConfig(
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # peft divides it by the rank, whatever number it is
        lora_dropout=section.dropout,
        target_modules=rf"{re.escape(inside)}\..*\.({'|'.join(map(re.escape, section.targets))})",
    )
    with quiet():
        return cast(PeftModel, get_peft_model(model.module, config))
