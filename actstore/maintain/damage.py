"""Damage: what of a store must be made anew, which samples that are, and how to heal it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from actstore.errors import ActstoreError, CorruptError
from actstore.format import commits, plan
from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.names import CHECKPOINT, COMMITS, PLAN, RESULTS
from actstore.format.schema import KEY
from actstore.maintain.verify import Problem
from actstore.read.parts import Part

NAMED = 3  # samples that a message names; the tables name them all


@dataclass(frozen=True)
class Damage:
    """Batches that are to be made anew, together: the records that hold them, and what is wrong with those."""

    records: tuple[str, ...]
    batches: tuple[int, ...]
    problems: tuple[Problem, ...]

    def commit(self, store: Path) -> Commit | None:
        """What was committed, where its record can still be read."""
        return _readable(store, self.records[0])


def find(store: Path, problems: Sequence[Problem]) -> list[Damage]:
    """What is to be made anew so that none of the problems that verification found in commits is left.

    The batches of a compaction whose record is lost are those of the records that it replaced: these are read again,
    and where their parts have gone, they are damaged too.
    """
    of_record: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.record is not None and not problem.unread:
            of_record.setdefault(problem.record, []).append(problem)
    found, lost = [], []
    for name, its in of_record.items():
        commit = _readable(store, name)
        if commit is None and name.startswith("c"):
            lost.append((name, its))
        else:
            batches = commit.batches if commit else (int(name[1:9]),)
            found.append(Damage((name,), batches, tuple(its)))
    if lost and not found:
        found.append(_whole(store))
    for name, its in lost:
        found[0] = replace(found[0], records=(*found[0].records, name), problems=(*found[0].problems, *its))
    return found


def _readable(store: Path, name: str) -> Commit | None:
    try:
        return Commit.load(store / COMMITS / name)
    except ActstoreError:
        return None


def _whole(store: Path) -> Damage:
    """A batch without damage: what replaces the record of a compaction has to hold some batch."""
    read = {name: commit for name in commits.names(store) if (commit := _readable(store, name))}
    name = min(read.keys() - commits.superseded(read.values()), default=None)
    if name is None:
        raise CorruptError(f"{store / COMMITS}: no record can be read; restore the folder from a copy")
    return Damage((name,), read[name].batches, ())


def table(store: Path, found: Sequence[Damage], *, failed: bool = False) -> pl.DataFrame:
    """Samples that are damaged, and with `failed` those that failed: record, batch, sample_id, condition, problem."""
    rows = pl.DataFrame(
        [(batch, one.records[0], _problem(store, one)) for one in found for batch in one.batches],
        schema={"batch": pl.Int32, "record": pl.String, "problem": pl.String},
        orient="row",
    )
    planned = plan.load(Header.load(store).checked(store, PLAN)).select("batch", *KEY)
    listed = planned.join(rows, on="batch", maintain_order="left").select("record", "batch", *KEY, "problem")
    return pl.concat([listed, _failed(store, planned, found)]) if failed else listed


def _failed(store: Path, planned: pl.DataFrame, found: Sequence[Damage]) -> pl.DataFrame:
    """Samples of the undamaged parts that failed."""
    damaged = {name for one in found for name in one.records}
    header = Header.load(store)
    read, _ = commits.readable(store, header.crc32c, commits.names(store))
    unread = commits.superseded(read) | damaged
    samples = [pl.DataFrame(schema=dict.fromkeys((*KEY, "status", "error", "record"), pl.String))]
    samples += [
        Part(store, commit, header.form).samples().select(*KEY, "status", "error", record=pl.lit(commit.name))
        for commit in read
        if commit.name not in unread
    ]
    return (
        pl.concat(samples)
        .filter(pl.col("status") == "failed")
        .join(planned, on=KEY)
        .select("record", "batch", *KEY, problem="error")
    )


def _problem(store: Path, one: Damage) -> str:
    if not one.problems:
        return "none; it is held together with what is damaged"
    more = len(one.problems) - 1
    return one.problems[0].problem.removeprefix(f"{store}/") + (f" (and {more} more)" if more else "")


def advice(store: Path, problems: Sequence[Problem]) -> str:
    """What to do about the problems, in lines."""
    lines, run = [], Header.load(store).run
    found = find(store, problems)
    if found and not any(problem.file == PLAN for problem in problems):
        ids = table(store, found)["sample_id"].unique(maintain_order=True).to_list()
        named = ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")
        if "recipe" in run:
            lines.append(
                f"where the model ({run.get('model')}) and the samples are at hand, this makes {len(ids)} samples anew:"
                f" actstore repair {store}\n"
                f"without them, these are lost: {named} (all: actstore repair {store} --dry-run)"
            )
        else:
            lines.append(f"{len(ids)} samples are lost unless there is a copy: {named}; no recipe can make them again")
    for problem in (one for one in problems if not one.unread):
        if problem.file == CHECKPOINT or problem.file.startswith(f"{RESULTS}/"):
            lines.append(f"remove {store / problem.file}; the command that made it makes it again")
        elif problem.record is None and (problem.file != COMMITS or not found):
            lines.append(f"restore {store / problem.file} from a copy; it cannot be made again")
    return "\n".join(lines)
