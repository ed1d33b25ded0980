"""A folder of class folders: the folder's name is the label."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from actstore.errors import nearest
from actstore.format.given import suffix_of
from actstore_extract.pictures import open_image
from actstore_extract.samples.files import folder
from actstore_extract.samples.source import Samples, SamplesError, Source, drawn

__all__ = ["ImageFolder", "hidden", "images_of", "subfolders"]

SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".heic", ".heif", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpx", ".tga", ".qoi", ".ico", ".psd"),
}
# Folders that systems put beside pictures; so do they files and folders whose names begin with a dot.
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


class ImageFolder(Source):
    """Your own pictures in a folder for each class; the folder's name is the label.

    Pictures in folders below a class folder are of that class. What is hidden (`.ipynb_checkpoints`, `._a.jpg`,
    `__MACOSX`, `@eaDir`) is no class and no picture.
    """

    source: Literal["imagefolder"]
    path: Annotated[Path, Field(examples=["pictures"])]
    """The folder with the class folders."""
    classes: Annotated[list[str] | None, Field(examples=[["cat", "dog"]])] = None
    """Only these classes."""
    per_class: Annotated[int | None, Field(ge=1, examples=[100])] = None
    """Draw so many images of each class; without it all are taken."""
    seed: int = 0
    """Decides which images per_class draws."""

    def everything(self) -> Samples:
        """sample_id = image = CLASS/FILE, label = CLASS; classes and files in the order of their names."""
        found = subfolders(self.path)
        for name in self.classes or []:
            if name not in found:
                raise SamplesError(f"{self.path} has no class folder '{name}'{nearest(name, found)}")
        chosen = [label for label in found if self.classes is None or label in self.classes]
        images, notes = images_of(self.path, chosen, self.per_class, seed=self.seed)
        if not images:
            raise SamplesError(f"{self.path} holds no images; expected {self.path}/CLASS/*.jpg{_behind(notes)}")
        labels, names = zip(*((label, f"{label}/{file}") for label, file in images), strict=True)
        table = pl.DataFrame({"sample_id": names, "label": labels, "image": names})
        return Samples(table, lambda name: open_image(self.path / name), notes=notes)


def subfolders(path: Path) -> list[str]:
    """Names of the folders in a folder that are not hidden, ascending."""
    entries = folder(path, "a folder of class folders").iterdir()
    return sorted(entry.name for entry in entries if entry.is_dir() and not hidden(entry.name))


def hidden(name: str) -> bool:
    """Whether a file or folder is the system's, not the user's.

    >>> [hidden(name) for name in ("._a.jpg", "@eaDir", "__MACOSX", "@home", "a.jpg")]
    [True, True, True, False, False]
    """
    return name.startswith(".") or name in _OF_SYSTEMS


def images_of(
    root: Path, classes: Iterable[str], count: int | None = None, *, seed: int
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """(class, image file) of class folders and the folders below them, as paths in the class folder, ascending.

    All, or `count` of each at random; and notes of the files that are left out, how many and why.
    """
    images: list[tuple[str, str]] = []
    others = Counter[str]()
    for name in classes:
        found = sorted(_below(root / name))
        files = [file for file in found if _is_image(file)]
        others.update(suffix_of(file) or "no suffix" for file in found if not _is_image(file))
        drawn_files = files if count is None else sorted(drawn(files, seed=seed, prefix=f"{name}/")[:count])
        images += ((name, file) for file in drawn_files)
    loose = [one.name for one in root.iterdir() if not hidden(one.name) and _is_image(one.name) and one.is_file()]
    notes = []
    if others:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in others.most_common(5))
        notes.append(f"{root}: {others.total()} files are no images by their names and are left out: {kinds}")
    if loose:
        notes.append(f"{root}: {len(loose)} images lie in no class folder and are left out, {min(loose)} among them")
    return images, tuple(notes)


def _below(path: Path) -> Iterator[str]:
    """The visible files of a folder and of those below it, as paths in it."""
    for where, folders, files in os.walk(path):
        folders[:] = _visible(folders)
        yield from (Path(where, name).relative_to(path).as_posix() for name in _visible(files))


def _visible(names: Iterable[str]) -> list[str]:
    return [name for name in names if not hidden(name)]


def _is_image(name: str) -> bool:
    return suffix_of(name) in SUFFIXES


def _behind(notes: Iterable[str]) -> str:
    return "".join(f" ({note})" for note in notes)
