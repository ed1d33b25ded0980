"""Models from a folder or the Hugging Face hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.processing_utils import ProcessorMixin

from actstore.errors import nearest
from actstore_extract.families.adapter import digest
from actstore_extract.families.anatomy import check_one_sequence
from actstore_extract.families.device import find_device
from actstore_extract.families.errors import LoadError
from actstore_extract.families.family import Family
from actstore_extract.families.foreign import check_known
from actstore_extract.families.image_settings import change
from actstore_extract.families.model import Model
from actstore_extract.families.parts import Parts, read_parts
from actstore_extract.families.pretrained import DTYPES, explained, pretrained, quiet
from actstore_extract.families.quantised import keep_method, method, quantised
from actstore_extract.families.registry import family_named, family_of

__all__ = ["load", "own_dtype", "rules_of", "sources"]

_BASE, _LORA = "model", "lora"  # entries of a parts file: a model, and the folder of what LoRA taught it
_TRAINING = "training.json"


def load(
    path: str,
    *,
    family: str | None = None,
    dtype: str = "bfloat16",
    device: str = "cpu",
    revision: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    attention: str | None = None,
    settings: Mapping[str, object] = MappingProxyType({}),
    remote_code: bool = False,
) -> Model:
    """The model in a folder, or on the hub under that name, or of the parts that a parts.toml names, ready to run.

    `device` may be auto: a GPU, if there is one. `device_map` spreads a model over several devices, as in
    Transformers, instead. `attention` is the
    attention implementation (the model's default otherwise). `settings` change what the processor does to images, such
    as {"min_pixels": 65536}. Code that a checkpoint brings along runs only with `remote_code`. LoadError says
    what is missing and where to get it.
    """
    if dtype not in DTYPES:
        hint = nearest(dtype, list(DTYPES), f"choose {', '.join(DTYPES)}")
        raise LoadError(f"dtype {dtype!r} is no number type of a model{hint}")
    given = {"dtype": DTYPES[dtype], "device_map": device_map, "attn_implementation": attention}
    options: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    with quiet():
        parts = read_parts(path)
        kind, module, processor = (
            _whole(path, family, revision, options, remote_code=remote_code, device=device)
            if parts is None
            else _assembled(parts, family, revision, options, remote_code=remote_code)
        )
    if device_map is None and quantised(module) is None:
        _move(module, device)
    taken = change(processor, settings)
    return Model(module, processor, family=kind.name, settings=taken)


def _move(module: PreTrainedModel, device: str) -> None:
    try:
        found = find_device(device)
        module.to(found)  # type: ignore[arg-type]
        if found.type == "cuda" and found.index is not None:
            torch.cuda.set_device(found)  # what names no device, such as a kernel of its own, goes there too
    except torch.OutOfMemoryError as error:
        raise LoadError(f"the weights do not fit {device}: spread them with device_map = 'auto' in [model]") from error


def sources(path: str, revision: str | None = None) -> dict[str, tuple[str, str | None]]:
    """The folders, or names on the hub and their revisions, whose files make up the model that `load` takes there: ""
    is its own, the others are by their entry in a parts file."""
    parts = read_parts(path)
    if parts is None:
        return {"": (path, revision)}
    models = (_BASE,) if _LORA in parts.entries else family_named(parts.family).parts
    return {"": (str(parts.file.parent), None), **{name: parts.model(name) for name in models}}


def own_dtype(path: str, revision: str | None = None, *, remote_code: bool = False) -> str:
    """The number type of the checkpoint that `load` takes there, as Transformers finds it: what its configuration says,
    else that of its first weight; of a model of parts the language model's. LoadError for none of those that run."""
    *_, (path, revision) = sources(path, revision).values()
    with explained(path):
        config = _config(path, revision, remote_code=remote_code)
        found = str(config.dtype or _of_weights(Path(path))).removeprefix("torch.")
    if found not in DTYPES:
        what = "says no number type" if found == "None" else f"is in {found}"
        raise LoadError(f"{path} {what}: set dtype in [model], to {', '.join(DTYPES)}")
    return found


def rules_of(path: str, family: str | None, revision: str | None = None, *, remote_code: bool = False) -> int:
    """The number of the rules by which roles are found in images of the model that `load` takes there: 1 where it has
    none, and before they were counted."""
    parts = read_parts(path)
    if parts is not None and _LORA not in parts.entries:
        return family_named(family or parts.family).rules
    if parts is not None:
        path, revision = parts.model(_BASE)
    with explained(path):
        config = _config(path, revision, remote_code=remote_code)
    kind = family_of((config.architectures or [""])[0], config, family)
    if not kind.architectures and _is_plain(config):
        return 1
    return kind.rules if kind.architectures or _sees(config) else 1


def _sees(config: PretrainedConfig) -> bool:
    """Whether a model is one of images and text: Transformers maps it so, and it has parts; Mistral 4, which it maps so
    too, is the decoder alone."""
    return type(config) in AutoModelForImageTextToText._model_mapping and bool(type(config).sub_configs)


def _is_plain(config: PretrainedConfig) -> bool:
    """Whether an image is one square of image tokens and nothing else, as in LLaVA of CLIP: all rules say the same."""
    tower = getattr(config, "vision_config", None)
    return config.model_type == "llava" and getattr(tower, "model_type", None) == "clip_vision_model"


def _config(path: str, revision: str | None, *, remote_code: bool) -> PretrainedConfig:
    """The checkpoint's configuration; LoadError for one of a kind that is known not to run."""
    check_known(path, revision)
    found: PretrainedConfig = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=remote_code)
    return found


def _of_weights(folder: Path) -> torch.dtype | None:
    """The number type of the first floating weight in the safetensors of a folder."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if (dtype := file.get_tensor(name).dtype).is_floating_point:
                    return cast(torch.dtype, dtype)
    return None


_Loaded = tuple[Family, PreTrainedModel, ProcessorMixin | PreTrainedTokenizerBase]


def _whole(
    path: str,
    family: str | None,
    revision: str | None,
    options: dict[str, object],
    *,
    remote_code: bool,
    device: str = "cpu",
) -> _Loaded:
    """A model that is one checkpoint; quantised weights go to the device at once, as they cannot be moved."""
    with explained(path):
        where = {"revision": revision, "trust_remote_code": remote_code}
        config = _config(path, revision, remote_code=remote_code)
        check_one_sequence(config, (config.architectures or [type(config).__name__])[0])
        kind = family_of((config.architectures or [""])[0], config, family)
        auto = kind.auto_class(config)
        if (how := method(config)) is not None:
            options = {"device_map": {"": find_device(device)}, **options}
        # Before any weights are read: what it needs and does not find is said at once.
        processor = AutoProcessor.from_pretrained(path, **where)  # type: ignore[no-untyped-call]
        module = pretrained(auto, path, config=config, **where, **options)
        keep_method(module, how)
    if _sees(config) and not isinstance(processor, ProcessorMixin):
        raise LoadError(f"{path} has a tokenizer alone: processor_config.json or preprocessor_config.json is missing")
    return kind, module, processor


def _assembled(
    parts: Parts, family: str | None, revision: str | None, options: dict[str, object], *, remote_code: bool
) -> _Loaded:
    """A model that is made of several."""
    if revision is not None:
        raise LoadError(f"{parts.file}: a revision belongs to one of its parts; write it there, as name@{revision}")
    kind = family_named(family or parts.family)
    if _LORA in parts.entries:
        return _with_lora(parts, kind.name, options, remote_code=remote_code)
    with explained(str(parts.file)):
        return kind, *kind.assemble(parts, options)


def _with_lora(parts: Parts, family: str, options: dict[str, object], *, remote_code: bool) -> _Loaded:
    """A model with what a LoRA training taught it merged into its weights."""
    from peft import PeftModel

    parts.check(needed=(_BASE, _LORA), optional=())
    path, revision = parts.model(_BASE)
    kind, module, processor = _whole(path, family, revision, options, remote_code=remote_code)
    folder = parts.path(_LORA)
    with explained(str(folder)):
        said = json.loads((folder / _TRAINING).read_text(encoding="utf-8"))["base"].get("digest")
        if said is not None and module.dtype != torch.float16 and said != digest(module):  # float16 rounds otherwise
            raise LoadError(f"{folder} was trained in another model than {path}")
        tuned = PeftModel.from_pretrained(module, str(folder))
    return kind, cast(PreTrainedModel, tuned.merge_and_unload()), processor
