"""What a report shows: everything, or the measures and saved results that were named."""

from collections.abc import Sequence
from dataclasses import dataclass

from actstore.errors import ActstoreError, nearest
from actstore.format.results import Result
from actstore_analyze.registry import MEASURES
from actstore_analyze.study.subjects import Subject

__all__ = ["EVERYTHING", "Choice", "choose", "verb"]

BESIDE = ("samples", "score", "steer")  # what a report has besides the measures


@dataclass(frozen=True)
class Choice:
    """The names asked for; None for everything."""

    names: frozenset[str] | None = None

    def asks(self, part: str) -> bool:
        """Whether a measure, by its command, or another part was asked for as such."""
        return self.names is None or part in self.names

    def takes(self, result: Result) -> bool:
        """Whether a saved result is shown: it was named, or its measure was."""
        return self.asks(result.name) or self.asks(verb(result.measure))


EVERYTHING = Choice()


def verb(measure: str) -> str:
    """The command of a measure.

    >>> verb("knockout_replayed"), verb("overlap"), verb("score")
    ('knockout', 'overlap', 'score')
    """
    return MEASURES[measure][0].partition(".")[0] if measure in MEASURES else measure


def choose(names: Sequence[str], subjects: Sequence[Subject]) -> Choice:
    """What was named, all without any; ActstoreError, with the nearest there is, for what is neither a measure, nor a
    part of a report, nor a saved result of the stores.
    """
    if not names:
        return EVERYTHING
    parts = sorted({*map(verb, MEASURES), *BESIDE})
    results = sorted({one.name for subject in subjects for one in subject.store.results()})
    for name in names:
        if name not in (*parts, *results):
            there = f"there are {', '.join(parts)}, and the saved results by their names: actstore results STORE"
            raise ActstoreError(f"a report shows no '{name}'{nearest(name, [*parts, *results], there)}")
    return Choice(frozenset(names))
