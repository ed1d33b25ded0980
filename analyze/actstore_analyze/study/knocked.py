"""The knockouts of a store: which of its conditions they are, in which blocks, and which are repeats of one."""

import re
from typing import Any, NamedTuple

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.study.conditions import NONE, specs

__all__ = ["Knocked", "as_knocked", "has_knockouts", "knocked"]

KEYS = ("queries", "keys")  # of an attention block


class Knocked(NamedTuple):
    """A condition: the knockout it is, in the last `window` blocks (None: in other blocks); one of several draws."""

    condition: str
    knockout: str
    window: int | None
    mode: str | None


def has_knockouts(store: Store) -> bool:
    """Whether any condition of the store is a knockout."""
    return bool(specs(store, *KEYS))


def knocked(store: Store) -> list[Knocked]:
    """The model as it is, then the knockouts, in the order of the run card; ActstoreError for a store without any."""
    if not has_knockouts(store):
        raise ActstoreError(
            f"{store} has no knockout among its conditions; extract one that has, such as: "
            "actstore extract digits-fusion-knockout STORE"
        )
    n_layers = int(store.run.get("n_layers") or max(store.layers))
    found = [as_knocked(name, blocks[0], n_layers) for name, blocks in specs(store, *KEYS).items()]
    return [Knocked(NONE, NONE, 0, None), *found]


def as_knocked(name: str, block: dict[str, Any], n_layers: int) -> Knocked:
    """The knockout that a condition is; endings of its name count where the block says the same."""
    layers = [int(layer) for layer in block.get("layers") or range(n_layers)]
    window = len(layers) if layers == list(range(n_layers - len(layers), n_layers)) else None
    roles = [str(role) for side in ("keys", "queries") for role in block.get(side) or ()]
    drawn = any(role.startswith("random-") for role in roles)
    stem = re.sub(r"-r\d+$", "", name) if drawn else name
    stem = stem.removesuffix(f"-w{window}")
    return Knocked(name, stem, window, str(block.get("mode")))
