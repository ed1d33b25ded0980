"""Weights of a checkpoint, tensor by tensor from its safetensors, under the names that the model has for them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from actstore_extract.families import LoadError

__all__ = ["Shards"]


class Shards:
    """Where each weight of a model lies; nothing is read before it is asked for.

    LoadError for a checkpoint without safetensors.
    """

    def __init__(self, module: PreTrainedModel, path: str, revision: str | None = None) -> None:
        self.path = path
        files = _files(path, revision)
        mapping = get_model_conversion_mapping(module)
        renamings = [one for one in mapping if isinstance(one, WeightRenaming)]
        own = module.state_dict()
        self.places: dict[str, tuple[Path, str]] = {}
        for key, file in files.items():
            name, _ = rename_source_key(
                key, renamings, [], base_model_prefix=module.base_model_prefix, meta_state_dict=own
            )
            self.places[name if name in own else key] = file, key
        for name, source in (getattr(module, "all_tied_weights_keys", None) or {}).items():
            if name not in self.places and source in self.places:
                self.places[name] = self.places[source]

    def read(self, names: Sequence[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The weights of these names; a file is opened once for all that are in it."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            if name not in self.places:
                raise LoadError(f"{self.path}: no weight {name} in its safetensors")
            by_file.setdefault(self.places[name][0], []).append(name)
        found: dict[str, torch.Tensor] = {}
        for file, wanted in by_file.items():
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in wanted:
                        tensor = opened.get_tensor(self.places[name][1])
                        found[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
            except SafetensorError as error:
                raise LoadError(f"{file}: {error} (fetched without git-lfs?)") from error
        return found

    def fill(self, module: nn.Module, prefix: str, dtype: torch.dtype) -> None:
        """Give a module under the name `prefix` its weights; LoadError where shapes differ."""
        names = {f"{prefix}.{name}": (name, own) for name, own in module.named_parameters(remove_duplicate=False)}
        for full, tensor in self.read(list(names), dtype).items():
            name, own = names[full]
            if tensor.shape != own.shape:
                raise LoadError(f"{self.path}: {full} is {tuple(tensor.shape)}, the model's is {tuple(own.shape)}")
            _set(module, name, tensor)

    @staticmethod
    def drop(module: nn.Module) -> None:
        """Take the weights of a module away again."""
        for name, own in list(module.named_parameters(remove_duplicate=False)):
            _set(module, name, torch.empty_like(own, device="meta"))


def _set(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, nn.Parameter(tensor, requires_grad=False))


def _files(path: str, revision: str | None) -> Mapping[str, Path]:
    """Key of each tensor -> the file that holds it, in a folder or in the hub's cache."""
    index = _file(path, SAFE_WEIGHTS_INDEX_NAME, revision)
    if index is not None:
        try:
            shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LoadError(f"{index}: no index of weights ({error})") from None
        return {key: _there(path, name, revision) for key, name in shards.items()}
    whole = _there(path, SAFE_WEIGHTS_NAME, revision)
    try:
        with safe_open(whole, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), whole)
    except SafetensorError as error:
        raise LoadError(f"{whole}: {error} (fetched without git-lfs?)") from error


def _there(path: str, name: str, revision: str | None) -> Path:
    found = _file(path, name, revision)
    if found is None:
        raise LoadError(f"{path} has no {name}: a decoder is read from safetensors, tensor by tensor")
    return found


def _file(path: str, name: str, revision: str | None) -> Path | None:
    found = cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)
