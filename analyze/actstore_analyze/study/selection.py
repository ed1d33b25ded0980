"""Which rows a measure looks at: chosen by SQL, by role, with a label; grouped by role, condition and position."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from actstore.errors import ActstoreError, nearest
from actstore.sql.views import literal
from actstore.store import Store

__all__ = ["Group", "choose", "counted", "figure_roles", "groups", "known_layers", "known_roles"]

ALIASES = {"end-image": "eoi"}
USUAL = ("eoi", "last-image", "image-mean")  # the positions of the Narrow Gate's overlap figure, in every model
# Others that it has of some: the 32nd, the first, the 1025th, the ends of lines, other means for the internal image.
OTHERS = re.compile(r"at-.+|first-image|eol-mean|image-mean-without-.+|all-image-mean")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Group:
    """The rows of one role under one condition, apart for each position inside the role: one row per sample each."""

    role: str
    condition: str
    positions: list[pl.DataFrame]

    @property
    def n(self) -> int:
        """Samples."""
        return self.positions[0].height


def known_roles(store: Store, roles: Sequence[str] | None) -> tuple[str, ...]:
    """The roles asked for, each once and all in the store; without any, the usual ones it has."""
    if roles is None:
        roles = [role for role in USUAL if role in store.roles] or store.roles[:1]
    chosen = tuple(dict.fromkeys(ALIASES.get(role, role) for role in roles))
    for role in chosen:
        if role not in store.roles:
            has = ", ".join(store.roles) or "none"
            raise ActstoreError(f"no role '{role}' in {store}, which has {has}{nearest(role, store.roles)}")
    if not chosen:
        raise ActstoreError(f"no role to look at in {store}")
    return chosen


def figure_roles(store: Store) -> list[str]:
    """Roles of the store that the Narrow Gate's overlap figure has a curve of; those of every model first."""
    others = [role for role in store.roles if OTHERS.fullmatch(role)]
    return [*(role for role in USUAL if role in store.roles), *others]


def known_layers(store: Store, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, ascending and all in the store; without any, all it has."""
    return tuple(sorted({store.header.layer_of(layer) for layer in (store.layers if layers is None else layers)}))


def counted(store: Store, layers: Sequence[int] | None) -> list[int] | None:
    """Layers, those below 0 counted from the last that is stored; the others are checked where they are looked up."""
    return None if layers is None else [store.header.layer_of(one) if one < 0 else one for one in layers]


def choose(
    store: Store, sql: str, roles: Sequence[str], label: str | None, *, group: str | None = None, say: Say
) -> pl.DataFrame:
    """Rows of a query that have one of the roles and a label: row_id, sample_id, condition, role, k, label, group.

    The label is a column of the query, or else of the view rows; None gives every row the label NULL. So is the group,
    as a number; rows without one are each a group.
    Rows without a label are left out otherwise, and said.
    """
    query = sql.strip().rstrip(";")
    given = store.sql(f"from (\n{query}\n) limit 0").schema
    own = given.names()
    if "row_id" not in own:
        raise ActstoreError(f"the query gives no row_id, only {', '.join(own)}; for example: from rows where k = 0")
    if not given["row_id"].is_integer():  # as a float, say, several rows would have the same
        raise ActstoreError(f"a row_id is an integer, and the query gives {given['row_id']}; leave it as it is in rows")
    column, shared = ("NULL" if name is None else f'{_source(store, own, name)}."{name}"' for name in (label, group))
    listed = ", ".join(map(literal, roles))
    rows = store.sql(
        f"select r.row_id, r.sample_id, r.condition, r.role, r.k, {column} as label, "
        f"coalesce('of ' || cast({shared} as varchar), 'row ' || r.row_id) as shared "
        f"from (\n{query}\n) q join rows r on r.row_id = q.row_id where r.role in ({listed}) order by r.row_id"
    )
    if rows["row_id"].is_duplicated().any():
        raise ActstoreError("the query gives a row_id more than once; a row would be its own neighbour")
    rows = rows.with_columns(group=pl.col("shared").rank("dense").cast(pl.Int64)).drop("shared")
    return rows if label is None else _labelled(rows, label, say)


def _source(store: Store, own: list[str], label: str) -> str:
    """Where the label comes from: q, the query, or r, the view rows."""
    if label in own:
        return "q"
    known = store.sql("from rows limit 0").columns
    if label not in known:
        columns = ", ".join(dict.fromkeys([*own, *known]))
        remedy = "; --label takes another" if label == "label" else nearest(label, known)
        raise ActstoreError(f"no column '{label}' to take labels from, only {columns}{remedy}")
    return "r"


def _labelled(rows: pl.DataFrame, label: str, say: Say) -> pl.DataFrame:
    missing = rows["label"].is_null()
    if rows["label"].dtype.is_float():
        missing |= rows["label"].is_nan().fill_null(value=True)
    if missing.all():
        what = (
            f"all {rows.height} rows have no '{label}'" if rows.height else "the query selects no rows of these roles"
        )
        raise ActstoreError(f"nothing to measure: {what}")
    if missing.any():
        say(f"left out: {missing.sum()} of {rows.height} rows, which have no '{label}'")
    return rows.filter(~missing)


def groups(rows: pl.DataFrame, roles: Sequence[str], *, say: Say) -> Iterator[Group]:
    """The rows apart by role and condition, in the order of the roles; a position that some samples lack is left out.

    Positions that only some samples have would each be measured on other samples.
    """
    for role in roles:
        own = rows.filter(pl.col("role") == role)
        if not own.height:
            raise ActstoreError(f"the query selects no labelled row of role '{role}'")
        for (condition,), under in own.sort("condition", "row_id").group_by("condition", maintain_order=True):
            yield Group(role, str(condition), _positions(role, under, say))


def _positions(role: str, rows: pl.DataFrame, say: Say) -> list[pl.DataFrame]:
    by_k = rows.partition_by("k", maintain_order=True, as_dict=True)
    ordered = [by_k[key] for key in sorted(by_k, key=lambda key: int(key[0] or 0))]
    n = rows["sample_id"].n_unique()
    kept = [position for position in ordered if position.height == n]
    if not kept:
        raise ActstoreError(f"role '{role}' has no position that all {n} samples have; select samples of one length")
    if len(kept) < len(ordered):
        say(f"role '{role}': {len(ordered) - len(kept)} of {len(ordered)} positions are not in every sample; left out")
    return kept
