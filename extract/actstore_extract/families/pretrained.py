"""Weights as Transformers loads them, but all of them or an error, and errors in one line that says what to do."""

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from actstore.errors import nearest
from actstore.progress import bar
from actstore_extract.families.errors import LoadError
from actstore_extract.families.remote import refusal
from actstore_extract.families.vision import missing
from actstore_extract.hub import unless_out_of_reach
from actstore_extract.shipped import MODELS

__all__ = ["DTYPES", "explained", "keep_unplaced", "pretrained", "quiet", "unplaced"]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_UNPLACED = "actstore_unplaced"


def pretrained(auto: Any, path: str, **options: object) -> PreTrainedModel:
    """A model of the class `auto`; LoadError for weights that Transformers would draw at random.

    What the checkpoint has and the model has no place for is kept with it, for `unplaced`. Code that the checkpoint
    brings along runs only where the options say trust_remote_code.
    """
    options = {"trust_remote_code": False, **options}
    with _without_report():
        module, info = auto.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    for what in ("missing", "mismatched"):
        names = sorted(name if isinstance(name, str) else name[0] for name in info[f"{what}_keys"])
        if names:
            raise LoadError(
                f"{path}: {len(names)} weights that {type(module).__name__} needs are {what}, such as {names[0]}"
            )
    keep_unplaced(module, info["unexpected_keys"])
    return cast(PreTrainedModel, module)


def keep_unplaced(module: PreTrainedModel, names: Iterable[str]) -> None:
    """Keep with a model the weights of its checkpoint that it has no place for."""
    module.__dict__[_UNPLACED] = sorted(names)


def unplaced(module: PreTrainedModel) -> list[str]:
    """The weights of its checkpoint that a model has no place for, by name."""
    return list(vars(module).get(_UNPLACED, ()))


@contextmanager
def explained(path: str) -> Iterator[None]:
    """What Transformers raises for a model it cannot load, in one line that says what to do."""
    try:
        with nullcontext() if Path(path).exists() else unless_out_of_reach():
            yield
    except OSError as error:
        if Path(path).exists():
            raise LoadError(f"{path} is no whole checkpoint: {_line(error)}") from error
        raise LoadError(
            f"no model at {path!r}{nearest(path, list(MODELS), 'it is')} neither a folder nor on the hub or in its "
            f"cache; where there is a network, hf download {path} --local-dir FOLDER, and give FOLDER as the path: "
            f"{_line(error)}"
        ) from error
    except ImportError as error:
        raise LoadError(f"{path}: {missing() if 'torchvision' in str(error).lower() else _line(error)}") from error
    except SafetensorError as error:
        raise LoadError(f"{path}: weights that are no safetensors (fetched without git-lfs?): {error}") from error
    except (KeyError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise LoadError(refusal(path)) from error
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


class _Shown(logging.EmptyTqdm):
    """What Transformers loops over, with a bar of ours."""

    def __iter__(self) -> Iterator[Any]:
        items = list(self._iterator or ())
        with bar(len(items), "weights") as progress:
            for item in items:
                yield item
                progress.advance()


@contextmanager
def quiet() -> Iterator[None]:
    """Our progress in the place of Transformers' own, no downloads' bars when nobody watches, and no remarks of peft on
    what Transformers will rename."""
    hide = not sys.stderr.isatty() and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    before = logging.set_tqdm_hook(lambda _, given, named: _Shown(*given, **named))  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            yield
    finally:
        logging.set_tqdm_hook(before)
        if hide:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
