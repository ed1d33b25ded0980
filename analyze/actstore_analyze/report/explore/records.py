"""Records: the samples of a store by their number in its plan, read at once, since a page asks for many."""

from functools import cached_property
from typing import Any

import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.report.explore.pictures import Thumbnails
from actstore_analyze.report.explore.sample import Sample, with_pictures

__all__ = ["Records"]

Key = tuple[str, str]  # sample, condition


class Records:
    """The samples of a store, with its pictures."""

    def __init__(self, store: Store) -> None:
        self.store, self.thumbnails = store, Thumbnails(store)

    @cached_property
    def numbers(self) -> pl.DataFrame:
        """sample_id, condition and the number of each in the plan, `at`."""
        return self.store.plan.select("sample_id", "condition").with_row_index("at")

    @cached_property
    def _samples(self) -> tuple[pl.DataFrame, dict[Key, int]]:
        frame = self.store.sql("from samples")
        return frame, {key: i for i, key in enumerate(frame.select("sample_id", "condition").iter_rows())}

    @cached_property
    def _image(self) -> dict[Key, list[int]]:
        """The positions of role `image` of each sample."""
        found = self.store.sql(
            "select sample_id, condition, list(position order by position) from rows "
            "where role = 'image' and position is not null group by all"
        )
        return {(sample_id, condition): at for sample_id, condition, at in found.iter_rows()}

    def sample(self, number: int) -> Sample:
        """One of them, without its tokens; ActstoreError where it is planned and not done."""
        plan: dict[str, Any] = self.store.plan.row(number, named=True)
        key = plan["sample_id"], plan["condition"]
        frame, places = self._samples
        if key not in places:
            raise ActstoreError(f"sample '{key[0]}' is planned and not done: go on with actstore extract")
        row = frame.row(places[key], named=True)
        return with_pictures(self.store, self.thumbnails, row, plan, self._image.get(key, []))
