"""Counterparts: the same samples in another role, condition or store."""

import polars as pl

from actstore.errors import ActstoreError
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.study.selection import Group, Say, choose, groups

__all__ = ["counterpart", "matched"]

ORDER = "/(image-text|text-image|text)$"  # ends the sample_id where a store has prompts in several orders


def counterpart(store: Store, role: str, condition: str, say: Say) -> Group:
    """All rows of a role under a condition."""
    query = f"from rows where role = {literal(role)} and condition = {literal(condition)}"
    if not store.sql(f"{query} limit 1").height:
        raise ActstoreError(f"{store.path} has no rows of role '{role}' under condition '{condition}' to compare with")
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
