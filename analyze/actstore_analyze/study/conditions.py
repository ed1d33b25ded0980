"""The conditions of a store, as its run card has them, and the samples that ran under some of them."""

from collections.abc import Sequence
from typing import Any

from actstore.sql.views import literal
from actstore.store import Store

__all__ = ["NONE", "samples_under", "specs"]

NONE = "none"  # the model as it is


def specs(store: Store, *keys: str) -> dict[str, list[dict[str, Any]]]:
    """Name -> what the condition does: those that have such `keys`; {} for a store that was not extracted."""
    found = store.run.get("conditions")
    if not isinstance(found, dict):
        return {}
    alike = {
        str(name): [one for one in spec if isinstance(one, dict) and {*keys} <= one.keys()]
        for name, spec in found.items()
    }
    return {name: spec for name, spec in alike.items() if spec}


def samples_under(conditions: Sequence[str], rows: str) -> str:
    """A query for the samples that ran under conditions and have rows among those that a query gives."""
    listed = ", ".join(map(literal, conditions))
    under = f"select * from samples where status = 'ok' and condition in ({listed})"
    query = rows.strip().rstrip(";")
    if query == "from rows":
        return under
    chosen = f"select r.sample_id, r.condition from (\n{query}\n) q join rows r on r.row_id = q.row_id"
    return f"{under} and (sample_id, condition) in ({chosen})"
