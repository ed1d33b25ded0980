"""Where stores and files are, for whoever reads a page elsewhere: never from the root of this machine."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actstore.storage.urls import is_url

__all__ = ["Places"]

ABSOLUTE = re.compile(r"(?:[A-Za-z]:)?[/\\](?:[^/\\\n]+[/\\])*([^/\\\n]+)[/\\]?")


class Places:
    """Paths as seen from one folder: the current one where all of them are below it, else the one that holds them."""

    def __init__(self, places: Sequence[Path | str], others: Sequence[Path] = ()) -> None:
        """The folder is that of paths among `places`; `others` are written as seen from it where a text has them."""
        paths = [Path(place) for place in places if not is_url(place)]
        found = [path.resolve() for path in paths]
        here = Path.cwd()
        below = all(path.is_relative_to(here) for path in found)
        self.base = here if below else Path(os.path.commonpath([path.parent for path in found]))
        known = {
            str(form): self.path(path) for path in (*paths, *others) for form in (path, path.resolve(), path.absolute())
        }
        known |= {str(self.base): ".", str(Path.home()): "~"}
        longest = sorted((path for path in known if Path(path).is_absolute() and len(path) > 1), key=len, reverse=True)
        self._known = {path: known[path] for path in longest}

    def path(self, path: Path | str) -> str:
        """A path from the folder, as a command run there has it; a URL as it is."""
        return str(path) if is_url(path) else os.path.relpath(Path(path).resolve(), self.base)

    def text(self, text: str) -> str:
        """A text in which the paths of this machine that are known are written from the folder."""
        for path, short in self._known.items():
            text = text.replace(path, short)
        return text

    def value(self, value: Any) -> Any:
        """A value of a run card, however deep: of a text that is an absolute path the last part.

        >>> Places([Path("a")]).value({"path": "/data/models/m/", "scale": [2.0, "a/b"]})
        {'path': '…/m', 'scale': [2.0, 'a/b']}
        """
        if isinstance(value, dict):
            return {key: self.value(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(one) for one in value]
        whole = ABSOLUTE.fullmatch(value) if isinstance(value, str) else None
        return value if whole is None else f"…/{whole[1]}"

    def command(self, words: Sequence[str]) -> str:
        """Words as a command line; absolute paths among them as they are from the folder.

        >>> print(Places([Path("a")]).command(["actstore", "overlap", "a", "from rows where split = 'test'"]))
        actstore overlap a "from rows where split = 'test'"
        """
        return " ".join(
            _quoted(self.path(word) if Path(word).is_absolute() and ABSOLUTE.fullmatch(word) else word)
            for word in words
        )


def _quoted(word: str) -> str:
    """A word for a shell; text with apostrophes in double quotes, which people read."""
    return f'"{word}"' if "'" in word and not re.search(r'["$`\\!]', word) else shlex.quote(word)
