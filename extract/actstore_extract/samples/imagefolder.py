"""A folder of class folders: the folder's name is the label."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from actstore.errors import nearest
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
    """path/CLASS/*.jpg; `classes` picks some, `per_class` draws that many of each, by `seed`.

    Images in folders below CLASS are of that class. What is hidden (`.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`,
    `@eaDir`) is no class and no image.
    """

    source: Literal["imagefolder"]
    path: Path
    classes: list[str] | None = None
    per_class: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0

    def everything(self) -> Samples:
        """sample_id = image = CLASS/FILE, label = CLASS; classes and files in the order of their names."""
        found = subfolders(self.path)
        for name in self.classes or []:
            if name not in found:
                raise SamplesError(f"{self.path} has no class folder '{name}'{nearest(name, found)}")
        names = [
            (label, f"{label}/{file}")
            for label in found
            if self.classes is None or label in self.classes
            for file in images_of(self.path / label, self.per_class, seed=self.seed)
        ]
        if not names:
            raise SamplesError(f"{self.path} holds no images; expected {self.path}/CLASS/*.jpg")
        labels, images = zip(*names, strict=True)
        table = pl.DataFrame({"sample_id": images, "label": labels, "image": images})
        return Samples(table, lambda name: open_image(self.path / name))


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


def images_of(path: Path, count: int | None = None, *, seed: int) -> list[str]:
    """Image files in a class folder and the folders below it, as paths in it, ascending: all, or `count` at random."""
    files = sorted(_images_below(path))
    return files if count is None else sorted(drawn(files, seed=seed, prefix=f"{path.name}/")[:count])


def _images_below(path: Path) -> Iterator[str]:
    for where, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not hidden(name)]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not hidden(name):
                yield Path(where, name).relative_to(path).as_posix()
