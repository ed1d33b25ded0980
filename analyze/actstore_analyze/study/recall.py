"""Answers of a store to a measure's call: recalled from its saved results, or computed and saved."""

from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from actstore.errors import ActstoreError
from actstore.format.results import Result
from actstore.store import Store
from actstore_analyze import devices
from actstore_analyze.study import held, kept
from actstore_analyze.study.selection import Say

__all__ = ["Answer", "Call", "answer"]


class Call(Protocol):
    """What is asked of a store: a measure, its parameters, and how the table is made."""

    @property
    def measure(self) -> str:
        """The name of the measure."""

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON; with the store's contents they name the result."""

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """Compute it."""


@dataclass(frozen=True)
class Answer:
    """A table, the saved result that holds it (None where the store cannot be written), and a line that says so.

    device: where it was computed, in words.
    """

    table: pl.DataFrame
    result: Result | None
    note: str
    device: str = devices.CPU


def answer(store: Store, call: Call, *, force: bool = False, say: Say) -> Answer:
    """The saved result of the same call on the same contents of the store, unless `force`; else a new one."""
    if not force and (saved := store.saved_result(call.measure, call.parameters)):
        held.say_left_out(store, call.parameters.get("layers") or (), say)
        by = "" if saved.device == devices.CPU else f", computed on {saved.device}"
        note = f"recalled from {_named(saved)}{by}; --force computes it again"
        return Answer(saved.table(), saved, note, saved.device)
    name = getattr(call, "device", devices.CPU)
    with devices.enough_memory(name), kept.until_answered():
        table = call.table(store, say=say)
    device = devices.named(name)
    try:
        result = store.save_result(call.measure, table, call.parameters, device=device)
    except ActstoreError as error:
        return Answer(table, None, f"not saved: {error}", device)
    return Answer(table, result, f"saved as {_named(result)}", device)


def _named(result: Result) -> str:
    return f"{result.path} (in SQL: from {result.name})"
