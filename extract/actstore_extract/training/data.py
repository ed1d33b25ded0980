"""What a training learns from: all its sets of conversations, checked before anything is learned."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore_extract.samples import Samples, SamplesError
from actstore_extract.training.conversations import Conversation, asked, conversation, n_markers, problem
from actstore_extract.training.recipe import DataSection

__all__ = ["BadExamplesError", "Data", "gather"]

SHOWN = 3  # of the examples that cannot be used


class BadExamplesError(ActstoreError):
    """Some examples cannot be learned from."""


@dataclass(frozen=True)
class _Set:
    """Conversations with their images and a chat template of their own, if any; `rows` of the table can be used."""

    name: str
    samples: Samples
    template: str | None
    rows: list[int]

    def digest(self) -> str:
        """sha256 of what is said in the rows, and of the names of their images."""
        total = sha256()
        for row in self.samples.table[self.rows].iter_rows():
            total.update(json.dumps(row).encode())
        return total.hexdigest()


class Data:
    """Examples by number: those of the first set, then those of the next."""

    def __init__(self, sets: Sequence[_Set]) -> None:
        self.sets = sets
        self.places = [(one, row) for one in sets for row in one.rows]

    def __len__(self) -> int:
        return len(self.places)

    def record(self) -> dict[str, dict[str, str | int]]:
        """How many examples each set has, and their digest: compared on resume."""
        return {
            "examples": {one.name: len(one.rows) for one in self.sets},
            "examples_sha256": {one.name: one.digest() for one in self.sets},
        }

    def conversation(self, number: int) -> tuple[Conversation, str | None]:
        """A conversation and its chat template."""
        one, row = self.places[number]
        return conversation(one.samples.table.row(row)), one.template

    def image(self, number: int) -> Image | None:
        """Its image, read from the disk; PictureError if that cannot be done."""
        one, row = self.places[number]
        name = one.samples.table.item(row, "image")
        return None if name is None else one.samples.image(name)


def gather(sections: Mapping[str, DataSection], *, images_only: bool, skip_bad: bool) -> tuple[Data, list[str]]:
    """All examples, and what is to be said of those left out.

    With `images_only` conversations without an image are left out. BadExamplesError names and counts those that cannot
    be used, unless they may be skipped.
    """
    sets: list[_Set] = []
    said: list[str] = []
    bad: list[str] = []
    for name, one in sections.items():
        samples = _spoken(name, one)
        said += samples.notes
        good, wrong, plain = _sorted(samples, images_only=images_only)
        sets.append(_Set(name, samples, one.chat_template, good))
        bad += [f"{name}: {reason}" for reason in wrong]
        if plain:
            said.append(f"{name}: {plain} of {samples.table.height} conversations have no image and are left out")
    total = sum(one.samples.table.height for one in sets)
    if bad and not skip_bad:
        raise BadExamplesError(
            f"{len(bad)} of {total} examples cannot be used{_first(bad)}\n"
            "mend them, or leave them out with --set training.skip_bad=true"
        )
    if bad:
        said.append(f"{len(bad)} of {total} examples cannot be used and are left out{_first(bad)}")
    data = Data(sets)
    if not len(data):
        raise BadExamplesError("no examples are left to learn from")
    return data, said


def _first(bad: Sequence[str]) -> str:
    lines = [f"\n  {one}" for one in bad[:SHOWN]]
    return ":" + "".join(lines) + (f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else "")


def _spoken(name: str, one: DataSection) -> Samples:
    """The samples as conversations: sample_id, image, turns."""
    try:
        samples = one.samples.samples()
    except SamplesError as error:  # a source names its key as recipes of extraction have it
        raise SamplesError(f"[data.{name}] {str(error).replace('samples.', f'data.{name}.')}") from error
    if one.prompt is None or one.answer is None:
        return samples
    return asked(samples, one.prompt, one.answer, f"[data.{name}]")


def _sorted(samples: Samples, *, images_only: bool) -> tuple[list[int], list[str], int]:
    """Rows that can be used, why the others cannot, and how many were left out for having no image."""
    good, bad, plain = [], [], 0
    missing = _missing(samples)
    for row, said in enumerate(map(conversation, samples.table.iter_rows())):
        if images_only and said.image is None and said.turns and not n_markers(said):
            plain += 1  # whatever is said in it
            continue
        reason = problem(said) or (f"no image {missing[said.image]}" if said.image in missing else None)
        if reason:
            bad.append(f"{said.sample_id}: {reason}")
        else:
            good.append(row)
    return good, bad, plain


def _missing(samples: Samples) -> dict[str | None, Path]:
    """Images that are not where they should be."""
    if samples.folder is None:
        return {}
    names = samples.table["image"].unique().drop_nulls()
    found: dict[str | None, Path] = {name: samples.folder / name for name in names}
    return {name: path for name, path in found.items() if not path.is_file()}
