"""Models from a folder or the Hugging Face hub."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoProcessor, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from actstore.errors import nearest
from actstore_extract.families.family import Family
from actstore_extract.families.model import Model
from actstore_extract.families.registry import LoadError, family_of

__all__ = ["load"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def load(
    path: str,
    *,
    family: str | None = None,
    dtype: str = "bfloat16",
    device: str = "cpu",
    revision: str | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    attention: str | None = None,
    blocked: Sequence[Mapping[str, object]] = (),
) -> Model:
    """The model in a folder, or on the hub under that name, ready to run.

    `device_map` spreads a model over several devices, as in Transformers, instead of `device`. `attention` is the
    attention implementation (the model's default otherwise). `blocked` lists attention blocks that belong to the
    model, such as {"queries": "text", "keys": "image"}. LoadError says what is missing and where to get it.
    """
    if dtype not in _DTYPES:
        raise LoadError(f"dtype {dtype!r}{nearest(dtype, list(_DTYPES))}; choose {', '.join(_DTYPES)}")
    options = {"dtype": _DTYPES[dtype], "device_map": device_map, "attn_implementation": attention}
    with _quiet(), _explained(path):
        config = AutoConfig.from_pretrained(path, revision=revision)
        kind = family_of((config.architectures or [""])[0], family)
        module = _weights(path, kind, config, revision, {k: v for k, v in options.items() if v is not None})
        processor = AutoProcessor.from_pretrained(path, revision=revision)  # type: ignore[no-untyped-call]
    if device_map is None:
        module.to(torch.device(device))  # type: ignore[arg-type]
    return Model(module, processor, family=kind.name, blocked=blocked)


def _weights(
    path: str, kind: Family, config: PretrainedConfig, revision: str | None, options: dict[str, object]
) -> PreTrainedModel:
    """The model's weights, all of them: Transformers would fill gaps at random."""
    auto: Any = kind.auto_class(config)
    module, info = auto.from_pretrained(path, config=config, revision=revision, output_loading_info=True, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise LoadError(f"{path} lacks {len(missing)} weights that {type(module).__name__} needs, such as {missing[0]}")
    return cast(PreTrainedModel, module)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """What Transformers raises for a model it cannot load, in one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise LoadError(
            f"no model at {path!r}: neither a folder with its files nor on the hub or in its cache "
            f"(fetch it with: hf download {path}): {_first_line(error)}"
        ) from error
    except (ImportError, KeyError, ValueError) as error:
        raise LoadError(f"{path}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of Transformers when nobody watches."""
    hide = not sys.stderr.isatty() and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
