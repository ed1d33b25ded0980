"""Weights as Transformers loads them, but all of them or an error, and errors in one line that says what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from actstore_extract.families.registry import LoadError

__all__ = ["explained", "pretrained"]


def pretrained(auto: Any, path: str, **options: object) -> PreTrainedModel:
    """A model of the class `auto`; LoadError for weights that Transformers would draw at random."""
    with _without_report():
        module, info = auto.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    for what in ("missing", "mismatched"):
        names = sorted(name if isinstance(name, str) else name[0] for name in info[f"{what}_keys"])
        if names:
            raise LoadError(
                f"{path}: {len(names)} weights that {type(module).__name__} needs are {what}, such as {names[0]}"
            )
    return cast(PreTrainedModel, module)


@contextmanager
def explained(path: str) -> Iterator[None]:
    """What Transformers raises for a model it cannot load, in one line that says what to do."""
    try:
        yield
    except OSError as error:
        if Path(path).exists():
            raise LoadError(f"{path} is no whole checkpoint: {_line(error)}") from error
        raise LoadError(
            f"no model at {path!r}: neither a folder nor on the hub or in its cache; where there is a network, "
            f"hf download {path} --local-dir FOLDER, and give FOLDER as the path: {_line(error)}"
        ) from error
    except ImportError as error:
        remedy = "its processor needs torchvision: pip install torchvision"
        raise LoadError(f"{path}: {remedy if 'torchvision' in str(error).lower() else _line(error)}") from error
    except SafetensorError as error:
        raise LoadError(f"{path}: weights that are no safetensors (fetched without git-lfs?): {error}") from error
    except (KeyError, ValueError) as error:
        raise LoadError(f"{path}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return shorten(str(error), 300, placeholder=" ...") or type(error).__name__


@contextmanager
def _without_report() -> Iterator[None]:
    """Transformers logs a table of all weights it did not need, such as the other half of CLIP."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)
