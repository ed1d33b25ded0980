"""The explorer's page as a notebook's widget: what is selected in it comes back to Python."""

from typing import Any

import polars as pl
from anywidget import AnyWidget
from traitlets import List, Unicode

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.report.explore import page

__all__ = ["Widget"]


class Widget(AnyWidget):
    """A page about one store, that a notebook shows."""

    _esm = page.static("widget.js")
    page = Unicode().tag(sync=True)
    row_ids = List(Unicode()).tag(sync=True)  # as text: a number of JavaScript has 53 bits

    def __init__(self, store: Store, **traits: Any) -> None:
        super().__init__(**traits)
        self._store = store

    @property
    def selected(self) -> pl.DataFrame:
        """The rows that the lasso selected, or the one that was clicked, in the order of the store; none without.

        Raises ActstoreError for what are no row ids.
        """
        if not all(one.isdecimal() for one in self.row_ids):
            raise ActstoreError(f"selected are {', '.join(self.row_ids)[:80]}, which are no row ids")
        chosen = f"row_id in ({', '.join(self.row_ids)})" if self.row_ids else "false"
        return self._store.sql(f"from rows where {chosen} order by row_id")
