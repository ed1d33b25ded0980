"""Models that are put together from several: a `parts.toml` names the parts."""

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from actstore.errors import nearest
from actstore.format.given import suffix_of
from actstore_extract.families.errors import LoadError
from actstore_extract.shipped import located

__all__ = ["Parts", "read_parts"]

_FILE = "parts.toml"


@dataclass(frozen=True)
class Parts:
    """What a parts file says: the family, and its other entries, all of them text."""

    file: Path
    family: str
    entries: dict[str, str]

    def check(self, *, needed: Collection[str], optional: Collection[str]) -> None:
        """LoadError unless the entries are those of the family."""
        known = ["family", *needed, *optional]
        for name in self.entries:
            if name not in known:
                hint = nearest(name, known, f"it has {', '.join(known)}")
                raise LoadError(f"{self.file}: unknown entry {name!r}{hint}")
        for name in needed:
            if name not in self.entries:
                raise LoadError(f"{self.file}: no {name}; a {self.family} model needs {', '.join(needed)}")

    def model(self, name: str) -> tuple[str, str | None]:
        """The folder, or the name on the hub with its revision, that `name@revision` names, or a model that
        ships or was fetched."""
        path, _, revision = self.entries[name].partition("@")
        known = located(path)
        local = self.file.parent / self.entries[name] if known == path else Path(known)
        return (str(local), None) if local.is_dir() else (path, revision or None)

    def path(self, name: str) -> Path:
        """A file, relative to the parts file."""
        return self.file.parent / self.entries[name]


def read_parts(path: str) -> Parts | None:
    """The parts that a file, or the parts.toml in a folder, names; None where there is no such file."""
    file = Path(path) if suffix_of(path) == ".toml" else Path(path) / _FILE
    if not file.is_file():
        return None
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoadError(f"{file}: {error}") from None
    for name, value in entries.items():
        if not isinstance(value, str):
            raise LoadError(f'{file}: {name} = {value!r} is not text; write {name} = "..."')
    family = entries.pop("family", None)
    if family is None:
        raise LoadError(f'{file}: no family; write family = "NAME"')
    return Parts(file, family, entries)
