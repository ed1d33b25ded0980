"""Files of data sets: found where their publishers put them, or missed in one line that says where they come from."""

from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from actstore_extract.samples.source import SamplesError

__all__ = ["first_file", "folder", "read_json", "read_json_lines", "read_lines"]

Form = TypeVar("Form")


def folder(path: Path, what: str) -> Path:
    """The folder, if it is one; `what` says what it should hold."""
    if not path.is_dir():
        raise SamplesError(f"folder {path} does not exist; set samples.path to {what}")
    return path


def first_file(root: Path, names: Sequence[str], origin: str) -> Path:
    """The first of `names` that `root` has; `origin` says who publishes them."""
    for name in names:
        if (root / name).is_file():
            return root / name
    alike = {path.name for name in names for path in (root / name).parent.glob(f"*{Path(name).suffix}")}
    there = f"; it has {', '.join(sorted(alike)[:5])}" if alike else ""
    raise SamplesError(f"{root} has no {' or '.join(names)}{there}: get it from {origin}, and put it there")


def read_json(path: Path, form: type[Form], origin: str) -> Form:
    """What a JSON file holds, checked to be of the form (TypedDicts, lists) that its publisher gave it."""
    return _checked(_bytes(path, origin), form, path, origin)


def read_json_lines(path: Path, form: type[Form], origin: str) -> list[Form]:
    """What each line of a file holds, checked to be of the form that its publisher gave it."""
    lines = [line for line in _bytes(path, origin).splitlines() if line.strip()]
    if not lines:
        raise SamplesError(f"{path} is empty: get it from {origin}")
    return [_checked(line, form, path, origin) for line in lines]


def read_lines(path: Path) -> list[str]:
    """The lines of a text, in UTF-8. A line feed ends one and nothing else: U+0085 and U+2028 stand in captions."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return [line.rstrip("\n") for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise SamplesError(f"{path}: {error}") from None


def _bytes(path: Path, origin: str) -> bytes:
    try:
        return path.read_bytes().removeprefix(BOM_UTF8)
    except FileNotFoundError:
        raise SamplesError(f"{path} does not exist: get {path.name} from {origin}, and put it there") from None
    except OSError as error:
        raise SamplesError(f"{path}: {error}") from None


def _checked(text: bytes, form: type[Form], path: Path, origin: str) -> Form:
    try:
        return TypeAdapter(form).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise SamplesError(f"{path}: {first['msg']}; perhaps its download was cut") from None
        where = ".".join(map(str, first["loc"])) or "top"
        raise SamplesError(f"{path} is not the file of {origin}: {where}: {first['msg']}") from None
