"""Names of ImageNet's classes: WordNet ids, synsets, and the classes of The Narrow Gate."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from actstore.storage.links import real
from actstore_extract.samples.files import read_lines
from actstore_extract.samples.source import SamplesError

__all__ = ["CHOICES", "WNID", "pair_of", "papers", "stem", "wnid_names"]

WNID = re.compile(r"n\d{8}")
_LINE = re.compile(r"(n\d{8})\s+([^,]+)")
# What says which class a WordNet id is: Kaggle's copy of ImageNet ships the first, the older kits the second.
_MAPPINGS = ("LOC_synset_mapping.txt", "words.txt")
_PARENTS = 4  # Kaggle's images are ILSVRC/Data/CLS-LOC/train, four below it


class Papers(NamedTuple):
    """The paper's 100 animals and 10 patching pairs, as names without `.n.01`, and the WordNet ids of all of them.

    words: of the classes of the pairs, the token that stands for each in the authors' code, by the kind of tokenizer.
    """

    animals: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    wnids: Mapping[str, str]
    words: Mapping[str, Mapping[str, str]]


@cache
def papers() -> Papers:
    """Read from the package.

    >>> len(papers().animals), papers().pairs[0], papers().wnids["beagle"]
    (100, ('american_alligator', 'arabian_camel'), 'n02088364')
    """
    data = json.loads((files("actstore_extract.samples") / "narrow_gate.json").read_text(encoding="utf-8"))
    pairs = tuple((stem(one), stem(other)) for one, other in data["pairs"])
    wnids = {stem(name): wnid for name, wnid in data["wnids"].items()}
    return Papers(tuple(map(stem, data["animals"])), pairs, wnids, data["words"])


# What [samples] classes may name instead of listing classes.
CHOICES = {
    "narrow-gate": lambda: papers().animals,
    "narrow-gate-pairs": lambda: tuple(name for pair in papers().pairs for name in pair),
}


def pair_of(label: str) -> int | None:
    """Which of the paper's patching pairs a class belongs to, 0..9.

    >>> pair_of("cheetah"), pair_of("beagle")
    (2, None)
    """
    return next((i for i, pair in enumerate(papers().pairs) if label in pair), None)


def stem(name: str) -> str:
    """A class as its synset is called, without part of speech and number.

    >>> stem("beagle.n.01"), stem("Maltese dog"), stem("flat-coated_retriever")
    ('beagle', 'maltese_dog', 'flat-coated_retriever')
    """
    return re.sub(r"\.[nvars]\.\d+$", "", name.strip().lower().replace(" ", "_"))


def wnid_names(folder: Path) -> dict[str, str]:
    """WordNet id -> name: the paper's classes, and all that a mapping file beside the class folders has.

    Two classes with one name, such as both cranes, get their ids behind it.
    """
    known = {wnid: name for name, wnid in papers().wnids.items()}
    nearby = [folder, *real(folder).parents[:_PARENTS]]
    found = [path / name for path in nearby for name in _MAPPINGS if (path / name).is_file()]
    return _unique({**_read(found[0]), **known}) if found else known


def _read(path: Path) -> dict[str, str]:
    """`n02088364 beagle` or `n02086079<TAB>Pekinese, Pekingese, Peke`: the first name is the synset's."""
    lines = read_lines(path)
    matches = [_LINE.match(line) for line in lines]
    for number, (line, match) in enumerate(zip(lines, matches, strict=True), start=1):
        if line.strip() and match is None:
            raise SamplesError(f"{path}:{number}: {line[:40]!r} is no line such as 'n02088364 beagle'")
    return {match[1]: stem(match[2]) for match in matches if match}


def _unique(names: dict[str, str]) -> dict[str, str]:
    """`names` with the id behind a name that two have."""
    counts: dict[str, int] = {}
    for name in names.values():
        counts[name] = counts.get(name, 0) + 1
    return {wnid: name if counts[name] == 1 else f"{name}.{wnid}" for wnid, name in names.items()}
