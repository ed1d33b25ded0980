"""Groups of rows whose vectors an autoencoder rebuilds: by role, order of the prompt and condition, with weights."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.header import span
from actstore.sql.views import literal
from actstore.store import Store
from actstore_analyze.sae.source import Source
from actstore_analyze.study import held
from actstore_analyze.study.another import another
from actstore_analyze.study.selection import Say, known_layers, known_roles

__all__ = [
    "AVERAGES",
    "OF_TEXT",
    "Group",
    "alone",
    "drawn",
    "groups_of",
    "other_model",
    "points_of",
    "roles_of",
    "say_models",
    "untrained_groups",
    "vectors",
]

AVERAGES = ("example", "token")
USUAL = (("image",), ("text", "random-text", "last"))  # of each the first that is stored
OF_TEXT = re.compile(r"(random-)?text(-.+)?|last(-\d+)?")  # roles of words
READ_BYTES, ENCODE_BYTES = 1 << 28, 1 << 27


@dataclass(frozen=True)
class Group:
    """Rows of one role, order of the prompt and condition; `query` gives their row_id, sample_id, example and weight.

    example numbers the samples 0..samples-1 in the order of their rows.
    """

    role: str
    prompt_order: str | None
    condition: str
    n: int
    samples: int
    query: str = field(repr=False)

    def __str__(self) -> str:
        return ", ".join(part for part in self.place if part)

    @property
    def place(self) -> tuple[str, str | None, str]:
        """What tells it from others of a store, and is the same in another."""
        return self.role, self.prompt_order, self.condition


def roles_of(store: Store, roles: Sequence[str] | None, sql: str = "from rows") -> tuple[str, ...]:
    """The roles asked for, all in the store; without any: of the query's, image, and text as far as it is stored."""
    if roles is None:
        own = store.sql(f"select distinct r.role from {_joined(store, sql)}")["role"].to_list()
        found = [next((role for role in choices if role in own), None) for choices in USUAL]
        roles = [role for role in found if role] or None
    return known_roles(store, roles)


def _joined(store: Store, sql: str) -> str:
    """The rows of a query, r, in SQL."""
    query = sql.strip().rstrip(";")
    own = store.sql(f"from (\n{query}\n) limit 0").columns
    if "row_id" not in own:
        raise ActstoreError(f"the query gives no row_id, only {', '.join(own)}; for example: from rows")
    return f"(select row_id from (\n{query}\n)) q join rows r on r.row_id = q.row_id"


def points_of(store: Store, found: Source, layers: Sequence[int] | None) -> tuple[int, ...]:
    """The layers asked for, each with an autoencoder; without any all that have vectors and an autoencoder."""
    asked = known_layers(store, layers)
    both = tuple(layer for layer in asked if layer in found.points)
    bare = [layer for layer in asked if layer not in found.points]
    if bare and (layers is not None or not both):
        raise ActstoreError(
            f"{found.name} has no autoencoder for layer {span(bare)}, only for {span(found.points)} "
            f"(its numbers read {found.read})"
        )
    return both


def say_models(store: Store, found: Source, say: Say) -> None:
    """Say where autoencoders are of a model whose name is not like the store's."""
    if other := other_model(store, found):
        say(other)


def other_model(store: Store, found: Source) -> str | None:
    """What to say of autoencoders of a model whose name is not like the store's: widths alone may agree by chance."""
    own = store.run.get("model")
    if not own or not found.models or any(_alike(str(own), model) for model in found.models):
        return None
    return (
        f"{found.name}: trained on {', '.join(found.models)}, the store is of {own}: figures mean something only "
        "if that is its language model"
    )


def _alike(own: str, other: str) -> bool:
    """Whether the last part of one name holds that of the other, letters and digits alone."""
    a, b = (re.sub(r"[^a-z0-9]", "", name.rstrip("/").rpartition("/")[2].lower()) for name in (own, other))
    return a in b or b in a


def alone(groups: Sequence[Group]) -> list[Group]:
    """The groups without words of prompts that have an image; ActstoreError where none is left of a role."""
    kept = [one for one in groups if one.prompt_order in (None, "text") or not OF_TEXT.fullmatch(one.role)]
    for role in dict.fromkeys(one.role for one in groups):
        if role not in [one.role for one in kept]:
            raise ActstoreError(f"every row of role '{role}' is of a prompt with an image: --text all takes them too")
    return kept


def groups_of(store: Store, sql: str, roles: Sequence[str], average: str = "example") -> list[Group]:
    """The rows of a query apart by role, prompt_order (where the plan has it) and condition.

    Averaged by example each vector weighs 1 / (vectors of its example in the group), by token 1.
    Raises ActstoreError for a role without rows, and rows that come twice.
    """
    joined = _joined(store, sql)
    known = store.sql("from rows limit 0").columns
    order = "r.prompt_order" if "prompt_order" in known else "null::varchar"
    listed = ", ".join(map(literal, roles))
    counted = store.sql(
        f"select r.role, {order} as prompt_order, r.condition, count(*) as n, "
        f"count(distinct r.sample_id) as samples, count(distinct r.row_id) as own from {joined} "
        f"where r.role in ({listed}) group by all order by all"
    )
    if counted.filter(pl.col("n") != pl.col("own")).height:
        raise ActstoreError("the query gives a row_id more than once")
    for role in roles:
        if role not in counted["role"]:
            raise ActstoreError(f"the query selects no row of role '{role}'")
    weight = "1.0 / count(*) over (partition by sample_id)" if average == "example" else "1.0"
    found = [
        Group(
            *(role, prompt_order, condition, n, samples),
            query=f"select row_id, sample_id, {weight} as weight, dense_rank() over (order by first) - 1 as example "
            f"from (select r.row_id, r.sample_id, min(r.row_id) over (partition by r.sample_id) as first from {joined} "
            f"where r.role = {literal(role)} and r.condition = {literal(condition)} "
            f"and {order} is not distinct from {_or_null(prompt_order)}) order by row_id",
        )
        for role, prompt_order, condition, n, samples in counted.drop("own").iter_rows()
    ]
    return sorted(found, key=lambda group: list(roles).index(group.role))


def drawn(store: Store, group: Group, positions: int | None, seed: int) -> pl.DataFrame:
    """The row_id, example and weight of each row of a group, by row_id; with positions of at most so many of each
    sample, drawn without replacement, which weigh as all of its rows.
    """
    rows = store.sql(group.query).with_columns(pl.col("weight").cast(pl.Float64))  # 1.0 is a decimal in SQL
    if positions is not None:
        weights = rows.group_by("example").agg(whole=pl.col("weight").sum())
        keyed = rows.with_columns(key=np.random.default_rng(seed).random(rows.height))
        chosen = keyed.filter(pl.col("key").rank("ordinal").over("example") <= positions)
        rows = chosen.join(weights, on="example", maintain_order="left").with_columns(
            weight=pl.col("whole") / pl.len().over("example")
        )
    return rows.select("row_id", "example", "weight")


def untrained_groups(
    path: str | None, state: str | None, groups: Sequence[Group], sql: str, average: str = "example"
) -> list[tuple[Store, Group]]:
    """The same groups in the store of an untrained adapter, if there is one; text alone never sees an adapter."""
    if path is None:
        return []
    other = another(path, state)
    known = {group.place for group in groups if group.prompt_order != "text"}
    roles = [role for role in dict.fromkeys(group.role for group in groups) if role in other.roles]
    found = groups_of(other, sql, roles, average) if roles else []
    kept = [group for group in found if group.place in known]
    if not kept:
        raise ActstoreError(f"{path}: none of the groups is in it; extract the same roles and conditions")
    return [(other, group) for group in kept]


def _or_null(text: str | None) -> str:
    return "null" if text is None else literal(text)


def vectors(
    store: Store, rows: str | pl.DataFrame, layer: int, *, n_features: int
) -> Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]:
    """Rows, of a query or a table, with their vectors at a layer, in pieces whose features fit in memory."""
    width = store.header.d_model
    step = max(1, ENCODE_BYTES // (4 * max(width, n_features)))
    for own, x in held.batches(store, rows, layer, size=max(1, READ_BYTES // (4 * width))):
        for start in range(0, own.height, step):
            yield own[start : start + step], x[start : start + step]
