"""Saved answers that this version can show; others are left out, each with its reason."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import polars as pl

from actstore.commands.outputs import OutputError
from actstore.errors import ActstoreError
from actstore.format.results import Result
from actstore.store import Store
from actstore_analyze.charts import charts
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import Study

__all__ = ["MOST_SAID", "attempted", "calls", "shown"]

MOST_SAID = 300  # characters of a reason
T = TypeVar("T")
Again = Callable[[dict[str, Any]], T]


def shown(
    store: Store,
    measure: str,
    again: Again[T],
    draw: Callable[[T, pl.DataFrame], charts.Figure],
    say: Say,
    *,
    takes: Callable[[Result], bool] = lambda _: True,
) -> list[tuple[T, pl.DataFrame]]:
    """Calls of a measure on what the store holds now, newest first, with their tables, if these can be drawn.

    takes: which of the saved results.
    """

    def read(one: Result) -> tuple[T, pl.DataFrame]:
        call, table = _computed_on(again(one.parameters), one.device), one.table()
        if not table.height:
            raise ActstoreError("it has no rows")
        charts.vega_lite(draw(call, table))
        return call, table

    now = [one for one in _of(store, measure) if one.state == store.state and takes(one)]
    return [found for one in now if (found := attempted(partial(read, one), str(one.path), say))]


def calls(store: Store, measure: str, again: Again[T], say: Say = lambda _: None) -> list[tuple[Result, T]]:
    """Results of a measure, newest first, of any state of the store, with the calls that they answer."""
    found = [(one, attempted(partial(again, one.parameters), str(one.path), say)) for one in _of(store, measure)]
    return [(one, _computed_on(call, one.device)) for one, call in found if call is not None]


def attempted(make: Callable[[], T], what: str, say: Say) -> T | None:
    """What `make` returns; None, and said why, where what other versions left cannot be made sense of.

    They may have left anything, over which any library raises anything; an error of the system is no such thing.
    """
    try:
        return make()
    except (OSError, OutputError):
        raise
    except Exception as error:
        line = str(error).strip().partition("\n")[0][:MOST_SAID]
        reason = line if isinstance(error, ActstoreError) else f"{type(error).__name__}: {line}"
        say(f"{what}: left out, this version cannot show it: {reason}")
        return None


def _computed_on(call: T, device: str) -> T:
    return call.computed_on(device) if isinstance(call, Study) else call


def _of(store: Store, measure: str) -> list[Result]:
    found = [one for one in store.results() if one.measure == measure]
    return sorted(found, key=lambda one: str(one.created), reverse=True)
