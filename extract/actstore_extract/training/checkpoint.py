"""Checkpoints: one file that a training goes on from, exactly, or that is not there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from actstore.errors import ActstoreError, CorruptError
from actstore.storage import local
from actstore_extract.run.card import flat
from actstore_extract.training.log import Row
from actstore_extract.training.recipe import recorded

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint"]

FILE = "checkpoint.state"  # of safetensors by another name, so that nobody takes it for the weights of a model
_FORMAT, _UNCHECKED = "actstore-checkpoint-3", "actstore-checkpoint-2"  # the second, of 0.1, has no checksum
_CHECKSUM = "sha256"
_REMEDY = "; put a copy of it back, or train into another folder"
_MADE_OF = "settings"  # of the models: a checkpoint from before they were kept is not compared in them


@dataclass(frozen=True)
class Checkpoint:
    """How far a training is (`step` steps are done), what it is (`made`), its log so far, and its tensors."""

    step: int
    made: dict[str, Any]
    log: list[Row]
    tensors: dict[str, torch.Tensor]

    def restore(self, weights: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Put weights and the optimizer's state back."""
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(self.tensors[f"weight/{name}"])
        for name, weight in weights.items():
            state = {key: x for (key, owner), x in self._of_optimizer().items() if owner == name}
            # Adam counts its steps on the host, and its moments are where the weights are
            optimizer.state[weight] = {key: x if key == "step" else x.to(weight.device) for key, x in state.items()}

    def _of_optimizer(self) -> dict[tuple[str, str], torch.Tensor]:
        parts = {name: name.split("/", 2) for name in self.tensors if name.startswith("optimizer/")}
        return {(key, owner): self.tensors[name] for name, (_, key, owner) in parts.items()}


def write_checkpoint(
    folder: Path,
    made: Mapping[str, Any],
    log: Sequence[Row],
    weights: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Keep the state after the steps in `log`, in the place of what was kept before, whole or not at all."""
    tensors = {f"weight/{name}": weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        tensors |= {f"optimizer/{key}/{name}": x for key, x in optimizer.state[weight].items()}
    path = folder / FILE
    draft = local.draft_of(path)
    facts = {"format": _FORMAT, "step": str(len(log)), "made": json.dumps(made), "log": json.dumps(log)}
    held = {name: x.contiguous().cpu() for name, x in tensors.items()}
    try:
        save_file(held, draft, {**facts, _CHECKSUM: _checksum(facts, held)})
        local.open_to_readers(draft)
        local.replace(path, draft)
    except (OSError, SafetensorError) as error:
        raise ActstoreError(f"{path}: the checkpoint could not be written: {error}") from error
    finally:
        local.discard(draft)


def read_checkpoint(folder: Path, made: Mapping[str, Any]) -> Checkpoint | None:
    """The checkpoint in a folder; ActstoreError, with the difference, unless it was `made` by the same recipe.

    CorruptError for one of which any bit is another than was written.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CorruptError(f"{path}: {error}{_REMEDY}") from error
    if facts.get("format") not in (_FORMAT, _UNCHECKED):
        raise ActstoreError(f"{path} is not a checkpoint of this version: its format is {facts.get('format')!r}")
    said = facts.pop(_CHECKSUM, None)
    if said != _checksum(facts, tensors) and (said is not None or facts["format"] != _UNCHECKED):
        raise CorruptError(f"{path} is not what was written: its sha256 is another than it says{_REMEDY}")
    try:
        log = [Row(*row) for row in json.loads(facts["log"])]
        found = Checkpoint(int(facts["step"]), json.loads(facts["made"]), log, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{path}: its metadata is damaged: {error}{_REMEDY}") from error
    _check_same(path, found.made, made)
    return found


def _checksum(facts: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of all that a checkpoint holds."""
    total = sha256(json.dumps(facts, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        total.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        total.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _check_same(path: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    then = flat({**there, **recorded(there, f"{path}: its recipe").record()})
    now = flat(json.loads(json.dumps({key: value for key, value in wanted.items() if key in there or key != _MADE_OF})))
    differing = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if differing:
        lines = [f"  {key}: {then.get(key)!r} in the checkpoint, {now.get(key)!r} now" for key in differing]
        raise ActstoreError(
            f"{path} was made otherwise; go on with what made it, or choose another folder:\n" + "\n".join(lines)
        )
