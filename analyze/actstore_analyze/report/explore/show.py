"""Showing: one sample, or all points, in a notebook, as files, and a sample in a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group

from actstore.commands.outputs import written
from actstore.errors import ActstoreError
from actstore.format.given import names, path_of, whole
from actstore.handing import how_to_install
from actstore.sql.query import text_of
from actstore.store import Store
from actstore_analyze.report.explore import page, shown, terminal
from actstore_analyze.report.explore.resources import Resources
from actstore_analyze.report.explore.sample import Sample, sample
from actstore_analyze.sae.source import source

if TYPE_CHECKING:
    from actstore_analyze.report.explore.widget import Widget

__all__ = ["Explored", "Shown", "explore", "show"]


@dataclass(frozen=True)
class Shown:
    """A sample that a notebook shows as a page and `rich.print` as text."""

    sample: Sample

    def save(self, path: Path | str) -> None:
        """Write it as .html, .png or .svg; raises ActstoreError for another suffix, and where it cannot be written."""
        shown.save(self.sample, path_of(path, "a file"))

    def __repr__(self) -> str:
        return f"<Shown {self.sample.title}: .save('sample.html'), .sample>"

    def _repr_html_(self) -> str:
        return page.framed(shown.page(self.sample), 720)

    def __rich__(self) -> Group:
        return terminal.rendered(self.sample)


def show(store: Store, sample_id: str, condition: str = "none") -> Shown:
    """One sample of a store; ActstoreError, with the nearest there is, for one that it has not."""
    return Shown(sample(store, sample_id, condition))


@dataclass(frozen=True)
class Explored:
    """Points of some stores in the plane: a page that a notebook shows, and that asks nobody for anything."""

    resources: Resources

    @cached_property
    def page(self) -> str:
        """The page; made once."""
        return page.saved(self.resources, page.choices(self.resources))

    def save(self, path: Path | str) -> None:
        """Write the page as .html; raises ActstoreError for another suffix, and where it cannot be written."""
        with written(page.checked(path_of(path, "a page"))) as draft:
            draft.write_text(self.page, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<Explored {', '.join(self.resources.stores)}: .save('page.html'), .page, .widget()>"

    def widget(self) -> "Widget":
        """The page as a widget: `widget.selected` is what was chosen in it, as rows.

        Raises ActstoreError without anywidget.
        """
        try:
            from actstore_analyze.report.explore.widget import Widget
        except ModuleNotFoundError as error:
            raise ActstoreError(f"a widget needs {how_to_install(error)}") from None
        return Widget(self.resources.stores, page=self.page)

    def _repr_html_(self) -> str:
        return page.framed(self.page, 760, "allow-scripts")


def explore(
    store: Store | Sequence[Store],
    query: str = "from rows",
    roles: str | Sequence[str] = (),
    *,
    limit: int = 5_000,
    saes: str | None = None,
    sae_id: str | None = None,
    hook: str | None = None,
) -> Explored:
    """The points of some roles of a store, or of several, all if none are said, at most `limit` of each; with `saes`
    the features of these autoencoders, which `sae_id` and `hook` say as for the measure `sae`.

    Raises QueryError for wrong SQL, ActstoreError for a role that a store has not, and for a page of over 200 MB.
    """
    most = whole(limit, "limit", least=1)
    stores = [store] if isinstance(store, Store) else list(store)
    if saes is None and (sae_id or hook):
        raise ActstoreError("sae_id and hook are of autoencoders: name them with saes")
    read = None if saes is None else source(saes, sae_id, hook)
    return Explored(Resources(stores, text_of(query), roles=names(roles, "roles"), saes=read, most=most))
