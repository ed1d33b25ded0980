"""The explorer's page as a notebook's widget: what is selected in it comes back to Python."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from anywidget import AnyWidget
from traitlets import List, Unicode

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.report.explore import page

__all__ = ["Widget"]


class Widget(AnyWidget):
    """A page about some stores, that a notebook shows."""

    _esm = page.static("widget.js")
    page = Unicode().tag(sync=True)
    row_ids = List(Unicode()).tag(sync=True)  # as text: a number of JavaScript has 53 bits
    store = Unicode().tag(sync=True)  # that they are of, by its name in the page

    def __init__(self, stores: Mapping[str, Store], **traits: Any) -> None:
        super().__init__(store=next(iter(stores)), **traits)
        self._stores = stores

    @property
    def selected(self) -> pl.DataFrame:
        """The rows that the lasso selected, or the one that was clicked, in the order of their store; none without.

        They are of the store named by `store`, that of the panel in which they were selected. Raises ActstoreError
        for what are no row ids, and for a store that the page is not about.
        """
        if self.store not in self._stores:
            raise ActstoreError(f"the page is about {', '.join(self._stores)}, not about {self.store[:80]}")
        if not all(one.isdecimal() for one in self.row_ids):
            raise ActstoreError(f"selected are {', '.join(self.row_ids)[:80]}, which are no row ids")
        chosen = f"row_id in ({', '.join(self.row_ids)})" if self.row_ids else "false"
        return self._stores[self.store].sql(f"from rows where {chosen} order by row_id")
