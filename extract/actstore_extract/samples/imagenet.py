"""ImageNet: class folders named by WordNet ids, as ILSVRC 2012 is unpacked, with synset names as labels.

    path/n02088364/n02088364_10108.JPEG        the training images; validation images sorted into such folders
    path/ILSVRC/Data/CLS-LOC/train/...         as Kaggle ships them, with path/LOC_synset_mapping.txt

Class folders may also be called by synset or name (`beagle.n.01`, `beagle`, `Maltese dog`).
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field

from actstore.errors import nearest
from actstore_extract.pictures import open_image
from actstore_extract.samples.files import folder
from actstore_extract.samples.imagefolder import images_of, subfolders
from actstore_extract.samples.source import Samples, SamplesError, Source
from actstore_extract.samples.synsets import CHOICES, WNID, pair_of, papers, stem, wnid_names

__all__ = ["ImageNet"]

_KAGGLE = Path("ILSVRC/Data/CLS-LOC/train")
_ORIGIN = (
    "ImageNet's site (ILSVRC 2012, https://www.image-net.org/download.php) or Kaggle "
    "(https://www.kaggle.com/c/imagenet-object-localization-challenge), both for those who register"
)


class ImageNet(Source):
    """ImageNet (ILSVRC 2012), with the words for its classes (`beagle`) as labels."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["imagenet"]
    path: Annotated[Path, Field(examples=["/data/imagenet"])]
    """The folder with the class folders, n01440764 and so on, or with Kaggle's ILSVRC."""
    classes: Annotated[
        Literal["narrow-gate", "narrow-gate-pairs"] | list[str] | None, Field(examples=[["beagle", "n02123045"]])
    ] = None
    """Only these classes, as names or WordNet ids. "narrow-gate" are that paper's 100 animals, "narrow-gate-pairs" the
    20 of its patching; the column pair numbers the pairs."""
    per_class: Annotated[int | None, Field(ge=1, examples=[100])] = None
    """Draw so many images of each class; without it all are taken."""
    seed: int = 0
    """Decides which images per_class draws."""

    def everything(self) -> Samples:
        """sample_id = image = FOLDER/FILE, label (`beagle`), wnid, and pair where `classes` are the pairs."""
        root = folder(self.path, f"a folder of ImageNet's class folders, n01440764 and so on; they come from {_ORIGIN}")
        root = root / _KAGGLE if (root / _KAGGLE).is_dir() else root
        names, chosen = self._chosen(root)
        files, notes = images_of(root, chosen, self.per_class, seed=self.seed)
        if not files:
            raise SamplesError(f"{root} holds no images; expected {root}/n01440764/*.JPEG, of {_ORIGIN}")
        table = pl.DataFrame(
            [(f"{name}/{file}", names[name], _wnid(name, names[name]), f"{name}/{file}") for name, file in files],
            schema=dict.fromkeys(("sample_id", "label", "wnid", "image"), pl.String),
            orient="row",
        )
        if self.classes == "narrow-gate-pairs":
            table = table.with_columns(pl.Series("pair", [pair_of(label) for label in table["label"]], pl.Int32))
        return Samples(table, lambda name: open_image(root / name), notes=notes)

    def _chosen(self, root: Path) -> tuple[dict[str, str], list[str]]:
        """Folder -> label, and the folders of the classes that are wanted, in the order of the folders' names."""
        mapping = wnid_names(root)
        names = {name: mapping.get(name, name) if WNID.fullmatch(name) else stem(name) for name in subfolders(root)}
        if self.classes is None:
            _check_named(root, names)
            return names, list(names)
        wanted = CHOICES[self.classes]() if isinstance(self.classes, str) else self.classes
        by_name = {label: name for name, label in names.items()} | {name: name for name in names}
        for one in wanted:
            if stem(one) not in by_name:
                raise SamplesError(_missing(root, one, names))
        return names, sorted({by_name[stem(one)] for one in wanted})


def _wnid(name: str, label: str) -> str | None:
    return name if WNID.fullmatch(name) else papers().wnids.get(label)


def _check_named(root: Path, names: dict[str, str]) -> None:
    """Raise SamplesError for a WordNet id without a name."""
    for name, label in names.items():
        if WNID.fullmatch(label):
            raise SamplesError(f"{root / name}: no name for this class; {_ADVICE.format(root=root)}")


_ADVICE = "put LOC_synset_mapping.txt, which Kaggle's ImageNet ships, into {root}"


def _missing(root: Path, wanted: str, names: dict[str, str]) -> str:
    hint = nearest(stem(wanted), list(names.values())) or nearest(wanted, list(names))
    wnid = papers().wnids.get(stem(wanted))
    also = f" ({wnid})" if wnid else ""
    nameless = any(WNID.fullmatch(label) for label in names.values())
    advice = f"; {_ADVICE.format(root=root)}" if nameless and not wnid and not hint else ""
    return f"{root} has no class folder for '{wanted}'{also}{hint}{advice}"
