"""A disk that loses power: a folder is recorded while a program writes, and every instant can be looked at afterwards.

For tests of programs that promise to survive power loss, this store's and others':

>>> import os, tempfile
>>> from pathlib import Path
>>> with tempfile.TemporaryDirectory() as folder, Disk(Path(folder)) as disk:
...     with open(Path(folder, "draft"), "wb") as file:
...         _ = file.write(b"all of it")
...     os.replace(Path(folder, "draft"), Path(folder, "done"))    # never synced
>>> [state.tree for state in disk.states if state.how == "names, no bytes"]
[{'draft': b''}, {'done': b''}]
>>> [state.tree for state in disk.states if state.how == "synced only"]
[{}]

What is recorded: `fsync`, `link`, `rename` and whatever else changes names, as Python calls them; the bytes that any
library wrote are read before and after each. What a disk may hold after power loss is at least what was synced: the
bytes of each file at its last fsync, the names of each folder at its last fsync. What was not synced may be there too,
or not.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, Union
from unittest import mock

Tree = dict[str, Union[bytes, "Tree"]]  # a folder: names, each with bytes or a folder

CHANGES = ("fsync", "link", "rename", "replace", "mkdir", "unlink", "remove", "rmdir")


@dataclass(frozen=True)
class State:
    """What the disk may hold after power was lost at some instant; `acknowledged` is what had been promised by then."""

    instant: str
    how: str
    tree: Tree
    acknowledged: tuple[object, ...]


@dataclass
class _Content:
    """Bytes of files and names in folders, by inode."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=dict)


class Disk:
    """Records what happens in a folder; what it holds at the beginning counts as synced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: list[State] = []
        self._root = folder.stat().st_ino
        self._pinned: dict[int, int] = {}  # an open file keeps its inode number from being given to another one
        self._acknowledged: list[object] = []
        self._seen: set[str] = set()
        self._synced = _Content()
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        self._synced = self._read()
        self._record("begin")
        for name in CHANGES:
            self._undo.enter_context(mock.patch.object(os, name, self._recorded(name, getattr(os, name))))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()
        self._record("end")
        for descriptor in self._pinned.values():
            os.close(descriptor)

    def acknowledge(self, what: object) -> None:
        """From now on `what` must be found whenever power is lost."""
        self._acknowledged.append(what)
        self._record(f"acknowledged {what}")

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*arguments: Any, **options: Any) -> Any:
            self._record(f"before {name} {arguments[0]}")
            result = call(*arguments, **options)
            if name == "fsync":
                self._sync(os.fstat(arguments[0]).st_ino)
            self._record(f"after {name} {arguments[0]}")
            return result

        return recorded

    def _sync(self, inode: int) -> None:
        now = self._read()
        if inode in now.files:
            self._synced.files[inode] = now.files[inode]
        if inode in now.folders:
            self._synced.folders[inode] = now.folders[inode]

    def _read(self) -> _Content:
        """Everything in the folder as it is now."""
        found = _Content()
        for parent, folders, files in os.walk(self.folder):
            inodes = {name: os.lstat(Path(parent, name)).st_ino for name in [*folders, *files]}
            found.folders[Path(parent).stat().st_ino] = inodes
            for name, inode in inodes.items():
                if inode not in self._pinned:
                    self._pinned[inode] = os.open(Path(parent, name), os.O_RDONLY)
            found.files |= {inodes[name]: Path(parent, name).read_bytes() for name in files}
        return found

    def _record(self, instant: str) -> None:
        now, acknowledged = self._read(), tuple(self._acknowledged)
        for how, tree in self._outcomes(now):
            if (key := f"{acknowledged} {tree}") not in self._seen:
                self._seen.add(key)
                self.states.append(State(instant, how, tree, acknowledged))

    def _outcomes(self, now: _Content) -> Iterator[tuple[str, Tree]]:
        """What the disk may hold if power is lost now: the least, the most, and some in between."""
        synced, root, chance = self._synced, self._root, random.Random(len(self.states))  # noqa: S311  (no secret)

        def bytes_synced(inode: int) -> bytes:
            return synced.files.get(inode, b"")

        def bytes_now(inode: int) -> bytes:
            return now.files.get(inode, bytes_synced(inode))

        def torn(inode: int) -> bytes:
            content = bytes_now(inode)
            return synced.files.get(inode, content[: len(content) // 2])

        def any_bytes(inode: int) -> bytes:
            return chance.choice([bytes_synced, torn, bytes_now])(inode)

        def names_synced(inode: int) -> dict[str, int]:
            return synced.folders.get(inode, {})

        def names_now(inode: int) -> dict[str, int]:
            return now.folders.get(inode, {})

        def any_names(inode: int) -> dict[str, int]:
            old, new = names_synced(inode), names_now(inode)
            chosen = {name: chance.choice([old, new]).get(name) for name in sorted({*old, *new})}
            return {name: found for name, found in chosen.items() if found is not None}

        is_folder = {*now.folders, *synced.folders}.__contains__
        yield "synced only", _tree(root, is_folder, names_synced, bytes_synced)
        yield "names, no bytes", _tree(root, is_folder, names_now, bytes_synced)
        yield "names, half of the bytes", _tree(root, is_folder, names_now, torn)
        yield "everything", _tree(root, is_folder, names_now, bytes_now)
        yield "by chance", _tree(root, is_folder, any_names, any_bytes)


def _tree(
    inode: int,
    is_folder: Callable[[int], bool],
    names: Callable[[int], dict[str, int]],
    content: Callable[[int], bytes],
) -> Tree:
    def below(inode: int) -> bytes | Tree:
        return {name: below(found) for name, found in names(inode).items()} if is_folder(inode) else content(inode)

    return {name: below(found) for name, found in names(inode).items()}


def restore(tree: Tree, folder: Path) -> None:
    """Write a tree into a folder, which is made."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            restore(content, folder / name)
