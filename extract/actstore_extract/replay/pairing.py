"""Pairings: which vectors are put into which samples, from a query, pairs of classes, or a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import polars as pl

from actstore.errors import nearest
from actstore.store import Store
from actstore_extract.interventions.conditions import NONE
from actstore_extract.replay import donors
from actstore_extract.replay.donors import Donor
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.reader import Reader, Stored, stored

__all__ = ["Asked", "Pairing", "chosen", "known_class", "paired"]

USUAL = "label"  # the column of classes, which a store may be without
MOST_NAMED = 20  # classes that an error lists


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is put where: at `role` of the samples that `sql` selects; with `pairs`, of those of a pair's second class.

    The vectors are those of the pair's first class, of the rows that `source` (SQL) selects, or of the file `vector`;
    with `mean` their mean; with `minus` (SQL) the mean less that of those rows. `pairs` are SOURCE:RECEIVER, classes of
    the column `by`; `limit` receivers of each pair, or of all. A vector, or difference, is one `to` a class; without it
    that of the source's rows, if they have one.
    """

    sql: str
    role: str
    by: str = "label"
    pairs: tuple[str, ...] = ()
    source: str | None = None
    minus: str | None = None
    mean: bool = False
    vector: str | None = None
    to: str | None = None
    limit: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From options, of which there may be more."""
        return cls(**{one.name: options[one.name] for one in fields(cls)})

    @property
    def classes(self) -> list[tuple[str, str]]:
        """Source and receiver of each pair."""
        found = [tuple(one.split(":")) for one in self.pairs]
        for one, pair in zip(self.pairs, found, strict=True):
            if len(pair) != 2 or not all(pair):
                raise ReplayError(f"pairs {one!r}: write SOURCE:RECEIVER, such as seven:three")
        return [(source, receiver) for source, receiver in found]


@dataclass(frozen=True)
class Pairing:
    """Samples by id, those that give and those that receive; what each receiver gets, and its class."""

    reader: Reader
    samples: dict[str, Stored]
    labels: dict[str, str | None]
    donors: dict[str, list[Donor]]

    @property
    def sources(self) -> list[str]:
        """The samples that donors are."""
        found = (donor.sample_id for each in self.donors.values() for donor in each)
        return list(dict.fromkeys(name for name in found if name is not None))

    @property
    def classes(self) -> list[tuple[str | None, str | None]]:
        """Classes of donor and receiver, for each donor of each receiver."""
        return [(donor.label, self.labels.get(name)) for name, own in self.donors.items() for donor in own]


def paired(reader: Reader, asked: Asked, layers: Sequence[int]) -> Pairing:
    """The pairing, its vectors not yet read; ActstoreError for what selects nothing, or does not fit."""
    if asked.pairs or asked.to is not None:
        known_class(reader.store, asked.to, asked.by)
    table = chosen(reader.store, asked.sql, asked.by)
    labels = dict(table.select("sample_id", "label").iter_rows())
    given = _of_pairs(reader, asked, table) if asked.pairs else _of_all(reader, asked, table, layers)
    given = {name: own for name, own in given.items() if own}
    if not given:
        raise ReplayError("nothing is to be patched: the query selects no receiver for any source")
    names = dict.fromkeys([*given, *(d.sample_id for own in given.values() for d in own if d.sample_id)])
    samples = stored(reader, list(names))
    for name, own in given.items():
        n = len(samples[name].at(asked.role))
        for donor in own:
            if donor.n != n or not n:
                raise ReplayError(
                    f"{n} tokens of {name} are {asked.role}, and {donor.n} vectors of {donor.name}"
                    + (_narrower(reader.store, asked.role) if donor.n > n and asked.source else "")
                )
    return Pairing(reader, samples, labels, given)


def chosen(store: Store, query: str, by: str) -> pl.DataFrame:
    """The samples of a query's rows, in their order: sample_id, label, prompt_order; those without a condition."""
    known = _columns(store, query, by)
    order = "r.prompt_order" if "prompt_order" in known else "'image-text'"
    label = f'cast(r."{by}" as varchar)' if by in known else "null"
    return store.sql(
        f"select r.sample_id, any_value({label}) as label, any_value({order}) as prompt_order, min(r.row_id) as first "
        f"from (\n{query.strip().rstrip(';')}\n) q join rows r on r.row_id = q.row_id "
        f"where r.condition = '{NONE}' group by all order by first"
    )


def known_class(store: Store, name: str | None, by: str) -> None:
    """ReplayError where the store has no column `by`, or no sample of this class in it."""
    columns = store.sql("from rows limit 0").columns
    if by not in columns:
        raise ReplayError(f"no column '{by}' of the samples to take classes from{nearest(by, columns)}")
    if name is None:
        return
    view = "samples" if by in store.sql("from samples limit 0").columns else "rows"
    known = store.sql(f'select distinct cast("{by}" as varchar) as name from {view} order by 1')["name"]
    if name not in known:
        raise ReplayError(f"no sample has {by} '{name}'{nearest(name, known.drop_nulls().to_list())}")


def _columns(store: Store, query: str, by: str) -> list[str]:
    """Columns of the view rows; ReplayError for a query without row_id, and where `by`, if not the usual, is none."""
    own = store.sql(f"from (\n{query.strip().rstrip(';')}\n) limit 0").columns
    if "row_id" not in own:
        raise ReplayError(
            f"the query gives no row_id, only {', '.join(own)}; for example: from rows where role = 'eoi' and ..."
        )
    known: list[str] = store.sql("from rows limit 0").columns
    if by not in (*known, USUAL):
        known_class(store, None, by)
    return known


def _narrower(store: Store, role: str) -> str:
    """What to add to a query that selects more than the role."""
    if role in store.roles:
        return f"; add role = '{role}' to the query of --source"
    return f"; add position = {role} to the query of --source" if role in ("boi", "eoi") else ""


def _of_pairs(reader: Reader, asked: Asked, table: pl.DataFrame) -> dict[str, list[Donor]]:
    """The i-th sample of a pair's second class receives from the i-th of its first, or from the mean of that class."""
    known = table["label"].drop_nulls().unique().sort().to_list()
    for name in (name for pair in asked.classes for name in pair):
        if name not in known:
            those = f"there are {', '.join(known[:MOST_NAMED])}{', …' if len(known) > MOST_NAMED else ''}"
            raise ReplayError(f"no sample of the query has {asked.by} '{name}'{nearest(name, known, those)}")
    numbered = table.with_columns(nth=pl.int_range(pl.len()).over("label", "prompt_order"))
    found: dict[str, list[Donor]] = {}
    for source, receiver in asked.classes:
        own, other = (numbered.filter(pl.col("label") == name) for name in (receiver, source))
        chosen = own if asked.limit is None else own.head(asked.limit)
        if asked.mean:
            mean = donors.means(reader, _rows_at(reader, asked.role, other), f"the mean of {source}", source)
            matched = [(name, mean) for name in chosen["sample_id"]]
        else:
            joined = chosen.join(other, on=["prompt_order", "nth"], suffix="_of_source", maintain_order="left")
            rows = _rows_at(reader, asked.role, joined.select(sample_id="sample_id_of_source", label="label_of_source"))
            by_name = {donor.sample_id: donor for donor in donors.of_rows(reader, rows)}
            names = joined.select("sample_id", "sample_id_of_source").iter_rows()
            matched = [(name, by_name[other]) for name, other in names if other in by_name]
        for name, donor in matched:
            found.setdefault(name, []).append(donor)
    return found


def _rows_at(reader: Reader, role: str, samples: pl.DataFrame) -> pl.DataFrame:
    """The rows at a role of samples (sample_id, label), whatever roles they are kept under."""
    known = stored(reader, samples["sample_id"].to_list())
    tables = [
        pl.DataFrame({"row_id": one.residual_rows[one.at(role)]}).with_columns(
            sample_id=pl.lit(name), label=pl.lit(label, pl.String), role=pl.lit(role), k=pl.int_range(pl.len())
        )
        for name, label in samples.select("sample_id", "label").iter_rows()
        for one in [known[name]]
    ]
    found = pl.concat(tables)
    if not found.height:
        raise ReplayError(f"no token of {', '.join(list(known)[:3])}, ... is {role}: choose another --role")
    lost = found.filter(pl.col("row_id") < 0)
    if lost.height:
        raise ReplayError(
            f"{reader.store} keeps no vectors at {role} of {lost['sample_id'][0]}, only {reader.store.roles}"
        )
    return found


def _of_all(reader: Reader, asked: Asked, table: pl.DataFrame, layers: Sequence[int]) -> dict[str, list[Donor]]:
    """Every donor goes into every receiver."""
    receivers = table["sample_id"].to_list()[: asked.limit]
    given = _donors(reader, asked, layers)
    return dict.fromkeys(receivers, given)


def _donors(reader: Reader, asked: Asked, layers: Sequence[int]) -> list[Donor]:
    if asked.vector is not None:
        return [donors.from_file(Path(asked.vector), reader.store.header.d_model, layers, label=asked.to)]
    assert asked.source is not None
    rows = _rows(reader.store, asked.source, asked.by)
    if asked.minus is not None:
        minus = _rows(reader.store, asked.minus, asked.by)
        return [donors.means(reader, rows, "a difference of means", asked.to or _only(rows), minus)]
    if not asked.mean:
        several = rows.group_by("sample_id", maintain_order=True).agg(pl.col("role").unique(maintain_order=True))
        several = several.filter(pl.col("role").list.len() > 1)
        if several.height:
            name, roles = several.row(0)
            more = _narrower(reader.store, asked.role)
            raise ReplayError(f"the query of --source gives vectors of {name} at {', '.join(roles)}{more}")
        return donors.of_rows(reader, rows)
    return [
        donors.means(reader, own, f"the mean of {label}" if label is not None else "a mean", label)
        for (label,), own in _apart(rows)
    ]


def _only(rows: pl.DataFrame) -> str | None:
    """The one class of all rows."""
    found = rows["label"].unique().to_list()
    return found[0] if len(found) == 1 else None


def _apart(rows: pl.DataFrame) -> list[tuple[tuple[str | None], pl.DataFrame]]:
    return [((label,), own) for (label,), own in rows.group_by("label", maintain_order=True)]


def _rows(store: Store, query: str, by: str) -> pl.DataFrame:
    """The rows of a query that have vectors: row_id, sample_id, role, k, label."""
    known = _columns(store, query, by)
    label = f'cast(r."{by}" as varchar)' if by in known else "null"
    rows = store.sql(
        f"select r.row_id, r.sample_id, r.role, r.k, r.condition, {label} as label "
        f"from (\n{query.strip().rstrip(';')}\n) q join rows r on r.row_id = q.row_id order by r.row_id"
    )
    if not rows.height:
        raise ReplayError(f"no rows to take vectors from: {query}")
    other = rows.filter(pl.col("condition") != NONE)
    if other.height:
        raise ReplayError(
            f"{other['sample_id'][0]} ran under {other['condition'][0]}: replays are of the model as it is; "
            f"add condition = '{NONE}' to the query"
        )
    return rows
