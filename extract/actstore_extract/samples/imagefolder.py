"""A folder of class folders: the folder's name is the label."""

from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from actstore.errors import nearest
from actstore_extract.samples.files import folder
from actstore_extract.samples.source import Samples, SamplesError, Source, drawn, open_image

__all__ = ["ImageFolder", "images_of", "subfolders"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


class ImageFolder(Source):
    """path/CLASS/*.jpg; `classes` picks some, `per_class` draws that many of each, by `seed`."""

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
    """Names of the folders in a folder, ascending."""
    return sorted(entry.name for entry in folder(path, "a folder of class folders").iterdir() if entry.is_dir())


def images_of(path: Path, count: int | None = None, *, seed: int) -> list[str]:
    """Names of the image files in a class folder, ascending: all of them, or `count` drawn at random."""
    files = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
    return files if count is None else sorted(drawn(files, seed=seed, prefix=f"{path.name}/")[:count])
