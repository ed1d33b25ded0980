"""Counterparts: the same samples in another role, condition or store."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore.store import open as open_store
from actstore_analyze.study.another import another, opened
from actstore_analyze.study.selection import Group, Say, choose, groups, known_roles
from actstore_analyze.study.study import PerLayer

__all__ = ["Compared", "counterpart", "matched"]

ORDER = "/(image-text|text-image|text)$"  # ends the sample_id where a store has prompts in several orders


@dataclass(frozen=True, kw_only=True)
class Compared(PerLayer):
    """A measure that compares roles with those of another role, condition or store; None stands for the same one.

    with_state: the contents of the other store, which the result depends on.
    """

    roles: tuple[str, ...]
    with_store: str | None = None
    with_state: str | None = None
    with_role: str | None = None
    with_condition: str | None = None

    @staticmethod
    def with_whom(
        store: Store, roles: Sequence[str] | None, with_store: Path | str | None, with_role: str | None
    ) -> tuple[Store, dict[str, Any]]:
        """The store that is compared with, and the fields that say so, its roles checked in both."""
        other = store if with_store is None else open_store(with_store)
        chosen = known_roles(store, roles)
        named = known_roles(other, [with_role] if with_role else chosen)
        elsewhere = {} if with_store is None else {"with_store": str(with_store), "with_state": other.state}
        return other, {"roles": chosen, "with_role": named[0] if with_role else None, **elsewhere}

    def other(self, store: Store) -> Store:
        """The store that is compared with."""
        return store if self.with_store is None else another(self.with_store, self.with_state)

    def other_of_piece(self, store: Store) -> Store:
        """The same for many pieces, each of which would open it, and read its tables, anew."""
        return store if self.with_store is None else opened(self.with_store, self.with_state)

    def named(self, **more: object) -> str:
        """What the roles are compared with, in words, `more` by its kind; empty where that is themselves."""
        kinds = {"role": self.with_role, **more, "condition": self.with_condition}
        said = [f"{kind} {value}" for kind, value in kinds.items() if value is not None]
        return " of ".join([*said, *([Path(self.with_store).name] if self.with_store else [])])


def counterpart(store: Store, role: str, condition: str, say: Say) -> Group:
    """All rows of a role under a condition."""
    query = f"from rows where role = {literal(role)} and condition = {literal(condition)}"
    if not store.sql(f"{query} limit 1").height:
        raise ActstoreError(f"{store} has no rows of role '{role}' under condition '{condition}' to compare with")
    return next(iter(groups(choose(store, query, [role], None, say=say), [role], say=say)))


def matched(own: Group, other: Group, say: Say) -> tuple[Group, Group]:
    """Both with the samples that both have, in one order, and as many positions, or one for all."""
    key = _key(own, other)
    ours, theirs = (group.positions[0].select(key) for group in (own, other))
    common = ours.join(theirs, on="key", how="semi").sort("key")
    if not common.height:
        raise ActstoreError(
            f"role '{own.role}': no sample in common with what it is compared with; the first is "
            f"'{own.positions[0]['sample_id'][0]}' here and '{other.positions[0]['sample_id'][0]}' there"
        )
    if common.height < own.n:
        say(f"role '{own.role}': {own.n - common.height} of {own.n} samples have no counterpart; left out")
    if len(other.positions) not in (1, len(own.positions)):
        raise ActstoreError(
            f"role '{own.role}' has {len(own.positions)} positions, role '{other.role}' has {len(other.positions)}; "
            "compare roles of as many positions, or with a role of one"
        )
    first, second = (
        Group(
            group.role,
            group.condition,
            [common.join(one.with_columns(key), on="key", maintain_order="left") for one in group.positions],
        )
        for group in (own, other)
    )
    return first, second


def _key(own: Group, other: Group) -> pl.Expr:
    """How samples are matched: by sample_id, or without its ending that says the order where only that differs."""
    exact = pl.col("sample_id").alias("key")
    ours, theirs = (group.positions[0]["sample_id"] for group in (own, other))
    if ours.is_in(theirs.implode()).any():
        return exact
    plain = pl.col("sample_id").str.replace(ORDER, "")
    unique = all(group.positions[0].select(plain).to_series().is_unique().all() for group in (own, other))
    return plain.alias("key") if unique else exact
