"""Showing a sample: as a page, a picture, in a notebook or a terminal."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group

from actstore.store import Store
from actstore_analyze.report.explore import shown, terminal
from actstore_analyze.report.explore.sample import Sample, sample

__all__ = ["Shown", "show"]


@dataclass(frozen=True)
class Shown:
    """A sample that a notebook shows as a page and `rich.print` as text."""

    sample: Sample

    def save(self, path: Path | str) -> None:
        """Write it as .html, .png or .svg; raises ActstoreError for another suffix, and where it cannot be written."""
        shown.save(self.sample, Path(path))

    def _repr_html_(self) -> str:
        return shown.framed(self.sample)

    def __rich__(self) -> Group:
        return terminal.rendered(self.sample)


def show(store: Store, sample_id: str, condition: str = "none") -> Shown:
    """One sample of a store; ActstoreError, with the nearest there is, for one that it has not."""
    return Shown(sample(store, sample_id, condition))
