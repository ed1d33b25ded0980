"""A folder of class folders, as ImageNet is shipped: the folder's name is the label."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from actstore.errors import nearest
from actstore_extract.samples.source import Samples, SamplesError, Source, open_image

__all__ = ["ImageFolder"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


class ImageFolder(Source):
    """path/CLASS/*.jpg; `classes` picks some, `per_class` draws that many of each, by `seed`."""

    source: Literal["imagefolder"]
    path: Path
    classes: list[str] | None = None
    per_class: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0

    def samples(self) -> Samples:
        """sample_id = image = CLASS/FILE, label = CLASS; classes and files in the order of their names."""
        if not self.path.is_dir():
            raise SamplesError(
                f"image folder {self.path} does not exist; set samples.path to a folder of class folders"
            )
        found = {folder.name: folder for folder in sorted(self.path.iterdir()) if folder.is_dir()}
        for name in self.classes or []:
            if name not in found:
                raise SamplesError(f"{self.path} has no class folder '{name}'{nearest(name, list(found))}")
        names = [
            (label, f"{label}/{file}")
            for label, folder in found.items()
            if self.classes is None or label in self.classes
            for file in self._files(folder)
        ]
        if not names:
            raise SamplesError(f"{self.path} holds no images; expected {self.path}/CLASS/*.jpg")
        labels, images = zip(*names, strict=True)
        table = pl.DataFrame({"sample_id": images, "label": labels, "image": images})
        return Samples(table, lambda name: open_image(self.path / name))

    def _files(self, folder: Path) -> list[str]:
        files = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if self.per_class is None or len(files) <= self.per_class:
            return files
        drawn = sorted(files, key=lambda file: sha256(f"{self.seed}/{folder.name}/{file}".encode()).digest())
        return sorted(drawn[: self.per_class])
