"""Models in GGUF files, as Ollama and LM Studio have them: dequantised once, as plain models of Transformers."""

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

from actstore.storage import cache, local
from actstore_extract.shipped.weights import RECORD, WeightsError

__all__ = ["SUFFIX", "convert", "converted", "no_bars", "origin"]

SUFFIX = ".gguf"
_RENAMED = ("qwen2moe", "qwen3moe")  # as GGUF writes what Transformers calls otherwise


def converted(file: Path, say: Callable[[str], None] = lambda _: None) -> Path:
    """The folder of the model in a file, made in the user's cache if it is not there: in float32, with its tokenizer;
    `say` is told what that takes before it is written.

    Raises WeightsError for a file that is no GGUF, that is cut, whose architecture Transformers does not read, and for
    which the disk has no room.
    """
    try:
        state = file.stat()
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror or error}") from None
    known = f"{file.resolve()}/{state.st_size}/{state.st_mtime_ns}"
    folder = cache.folder() / "gguf" / hashlib.sha256(known.encode()).hexdigest()[:16]
    if (folder / RECORD).exists():
        return folder
    record, size = _looked_at(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        what = f"{file}: dequantised to float32 it takes {size / 1e9:.2g} GB in {folder.parent}"
        if size > free:
            raise WeightsError(f"{what}, where {free / 1e9:.2g} GB are free: make room, or set XDG_CACHE_HOME")
        say(f"{what}, once")
        with tempfile.TemporaryDirectory(prefix=".draft-", dir=folder.parent) as draft:
            model = Path(draft) / "model"
            try:
                with no_bars(), local.naming(folder.parent):
                    convert(file, model)
            except OSError:
                raise
            except Exception as error:  # of Transformers, which knows this architecture but not all of its files
                raise WeightsError(f"{file}: Transformers cannot read this model: {_line(error)}") from error
            (model / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            model.rename(folder)
    except OSError as error:
        raise WeightsError(f"{file}: {folder.parent} cannot be written: {error.strerror or error}") from error
    return folder


def origin(path: str) -> dict[str, object]:
    """What a run card says of a file that was dequantised: the types of its tensors, and its licence if it says one."""
    found: dict[str, object] = json.loads((converted(Path(path)) / RECORD).read_text(encoding="utf-8"))
    return found


def convert(file: Path, folder: Path) -> None:
    """Write the model of a file, dequantised to float32, and its tokenizer into a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": file.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    found: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, **where, dtype=torch.float32, output_loading_info=True
    )
    loaded, info = found
    if missing := sorted(info["missing_keys"]):
        raise WeightsError(f"{file}: it lacks {len(missing)} weights of its model, such as {missing[0]}")
    config = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path"):
        config.pop(name, None)
    plain = type(loaded)(type(loaded.config)(**config))
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def no_bars() -> Iterator[None]:
    """Transformers draws two for files that are read in a second, one of them past its own switch."""
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    shown, drawn = logging.is_progress_bar_enabled(), reader.tqdm  # type: ignore[attr-defined]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    reader.tqdm = partial(drawn, disable=True)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        reader.tqdm = drawn  # type: ignore[attr-defined]
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _looked_at(file: Path) -> tuple[dict[str, object], int]:
    """What the file says of itself: the types of its tensors, its licence; and the bytes of its weights in float32.

    WeightsError where it is not whole.
    """
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise WeightsError(f"{file} is no GGUF file: it does not begin with the letters GGUF")
    if util.find_spec("gguf") is None:
        raise WeightsError(f"{file}: to read it takes gguf; install it with: pip install gguf")
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        reader = GGUFReader(file)
        architecture = str(reader.fields["general.architecture"].contents())
        licence = reader.fields.get("general.license")
        types = Counter(one.tensor_type.name for one in reader.tensors)
        size = 4 * sum(int(one.n_elements) for one in reader.tensors)
    except Exception as error:  # the reader's own checks are what numpy says of too few bytes
        raise WeightsError(f"{file} is cut or damaged: {_line(error)}") from None
    known = [name for name in GGUF_SUPPORTED_ARCHITECTURES if name not in ("general", "tokenizer")]
    if architecture.replace("-", "_") not in known and architecture not in _RENAMED:
        raise WeightsError(f"{file}: its architecture is {architecture}, and Transformers reads {', '.join(known)}")
    said = {} if licence is None else {"licence": str(licence.contents())}
    return {"dequantised": ", ".join(f"{n} {name}" for name, n in types.most_common()), **said}, size


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
