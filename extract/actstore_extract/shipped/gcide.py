"""Definitions of the GNU Collaborative International Dictionary of English, Webster's of 1913 for the most part."""

import csv
import json
import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["Definition", "convert", "definitions", "seen"]

FILE = "definitions.csv"
_WORD, _WORDS = re.compile(r"[a-z]{3,}"), range(8, 61)  # of a headword, and how many a definition has


class Definition(NamedTuple):
    """A word, its part of speech as the dictionary writes it (n., a., v. t.), and its first definition."""

    word: str
    part: str
    text: str


def convert(folder: Path, out: Path) -> None:
    """Write the first definition of every plain English word that says something: 8 to 60 words, in ASCII."""
    out.mkdir()
    with (out / FILE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(Definition._fields)
        for path in sorted(folder.iterdir()):
            entries = json.loads(path.read_bytes())
            table.writerows(one for word in sorted(entries) for one in _first(word, entries[word]["pos"]))


def _first(word: str, parts: list[dict[str, object]]) -> list[Definition]:
    for part in parts:
        for one in part["definitions"]:  # type: ignore[attr-defined]
            text = " ".join(one["text"].split())
            plain = _WORD.fullmatch(word) and text.isascii() and len(text.split()) in _WORDS
            return [Definition(word, str(part.get("part_of_speech") or ""), text)] if plain else []
    return []


def definitions(folder: Path) -> list[Definition]:
    """All that were kept, by word."""
    with (folder / FILE).open(encoding="utf-8", newline="") as file:
        return [Definition(**row) for row in csv.DictReader(file)]


def seen(folder: Path) -> list[float]:
    """How many thousand there are, the mean length of their words and of their texts, the share of nouns."""
    found = definitions(folder)
    n = len(found)
    means = (sum(len(one.word) for one in found) / n, sum(len(one.text) for one in found) / n)
    return [n / 1000, *means, sum(one.part == "n." for one in found) / n]
