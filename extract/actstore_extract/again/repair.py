"""Repairing: samples whose data was damaged, or that failed, are run again and take the place of what was there."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

import actstore
from actstore.errors import ActstoreError, AlreadyCommittedError, CorruptError
from actstore.format import commits
from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.names import INDEX
from actstore.format.schema import KEY
from actstore.maintain import merging
from actstore.maintain.damage import Damage
from actstore.progress import bar
from actstore.read.parts import Part
from actstore.write.batch import Batch
from actstore.write.drafts import Draft
from actstore_extract.again.differences import between, tolerance
from actstore_extract.again.recompute import summary
from actstore_extract.again.rerun import Rerun
from actstore_extract.run.card import made_on

__all__ = ["Repaired", "repair"]

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Repaired:
    """A part that was made anew: its commit, how many samples were run, and whether every file is bit for bit the one
    that was damaged (None where there is none, or its record is lost)."""

    commit: Commit
    samples: int
    bit_equal: bool | None = None


def repair(
    path: Path,
    found: Sequence[Damage],
    *,
    failed: bool = False,
    accept_failed: bool = False,
    device: str = "auto",
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Repaired]:
    """Make anew what is damaged, and with `failed` the samples that failed; yields each part when it is committed.

    Raises ActstoreError where the model or the samples are not at hand, for a model that is not that of the run card,
    and for a part that comes out otherwise: that part is not written, and those before it stay.
    """
    if not found and not (failed and _to_retry(path)):
        return
    Header.load(path).check_whole(path)
    again = Rerun(path, device=device, overrides=overrides, say=say)
    _check_model(again)
    total = again.plan.filter(pl.col("batch").is_in([batch for one in found for batch in one.batches])).height
    with bar(total, "samples") as progress:
        for damage in found:
            if done := _remade(again, damage, accept_failed=accept_failed, advance=progress.advance):
                yield done
    for part in _to_retry(path) if failed else ():
        if done := _retried(again, part):
            yield done
    if (path / INDEX).exists():
        actstore.open(path).write_index()


def _check_model(again: Rerun) -> None:
    """Raise ActstoreError, with the difference, unless the model at hand is that of the run card."""
    if lines := [f"\n  {name}: {then!r} in its run card, {now!r} here" for name, (then, now) in again.changed.items()]:
        raise ActstoreError(
            f"{again.path} was made with another model than that in {again.run.folder}: nothing was written; "
            f"say where its model is: --set model.path=FOLDER{''.join(lines)}"
        )


def _to_retry(path: Path) -> list[Part]:
    """Parts with samples that failed."""
    return [part for part in actstore.open(path).parts if _failed(part.samples()).height]


def _remade(
    again: Rerun, damage: Damage, *, accept_failed: bool = False, advance: Advance = lambda _: None
) -> Repaired | None:
    """Run the samples of a damaged part again and publish a part that replaces it; None if another repair was first.

    The forwards have the samples and the size that they had at first. Raises ActstoreError, and nothing is written, if
    a sample fails that did not fail then (unless `accept_failed`), or what is intact of the part is not what comes out.
    """
    made = []
    for number in damage.batches:
        planned = again.plan.filter(pl.col("batch") == number)
        made.append(again.made(planned, again.batch_size(number), advance=advance))
    content = merging.merged(made)
    before = damage.commit(again.path)
    _check_failed(again, damage, before, content.samples, accept_failed=accept_failed)
    if before is not None:
        _check_alike(again, damage, Part(again.path, before, again.header.form), content)
    by = {"by": "actstore repair", "failed": _failed(content.samples).height, **made_on(again.run.model.device)}
    commit = _publish(again, content, by, dict.fromkeys(damage.records, ()) | {damage.records[0]: damage.batches})
    if commit is None:
        return None
    return Repaired(commit, content.samples.height, None if before is None else commit.files == before.files)


def _retried(again: Rerun, part: Part, *, advance: Advance = lambda _: None) -> Repaired | None:
    """Run the failed samples of a part again, and publish a part that has them beside what was there, which stays as
    it is, row_id included; None if all of them fail again, or another was first."""
    samples = part.samples()
    planned = again.plan.join(_failed(samples), on=KEY, how="semi")
    made = []
    for (number,), its in planned.group_by("batch", maintain_order=True):
        content = again.made(its, again.batch_size(number), advance=advance)
        free = _free_row_id(part, number) - (number << 32)
        made.append(Batch(content.samples, content.rows.with_columns(pl.col("row_id") + free), content.values))
    healed = sum(one.samples.height - _failed(one.samples).height for one in made)
    if not healed:
        return None
    rest = merging.without(merging.held(part), samples["status"] == "failed")
    by = {"by": "actstore repair --failed", "samples": healed, "made_on": made_on(again.run.model.device)}
    commit = _publish(again, merging.merged([rest, *made]), by, {part.commit.name: part.commit.batches})
    return None if commit is None else Repaired(commit, healed)


def _failed(samples: pl.DataFrame) -> pl.DataFrame:
    return samples.filter(pl.col("status") == "failed")


def _free_row_id(part: Part, number: int) -> int:
    """The first row_id of a batch that no row has or had."""
    taken = part.rows().filter(pl.col("row_id") // 2**32 == number)["row_id"].to_list()
    return max(taken, default=(number << 32) - 1) + 1


def _check_failed(
    again: Rerun, damage: Damage, before: Commit | None, samples: pl.DataFrame, *, accept_failed: bool
) -> None:
    """Raise ActstoreError if a sample failed now that did not fail when the part was made, or may not have."""
    new, then = _failed(samples), _samples(again.path, before)
    if then is not None:
        new = new.join(_failed(then), on=KEY, how="anti")
    elif new.height <= sum(int(again.made_by(number).get("failed", 0)) for number in damage.batches):
        return
    if new.height and not accept_failed:
        sample_id, error = new.select("sample_id", "error").row(0)
        raise ActstoreError(
            f"{again.path}: {new.height} samples of {damage.records[0]} cannot be run now, first {sample_id}: {error}; "
            "nothing was written. Say where the samples are now: --set samples.path=FOLDER; or, if they never could be "
            "run: --accept-failed"
        )


def _samples(path: Path, commit: Commit | None) -> pl.DataFrame | None:
    """The samples of a part that was damaged, if they are still as they were committed."""
    try:
        return None if commit is None else Part(path, commit, Header.load(path).form).samples()
    except CorruptError:
        return None


def _check_alike(again: Rerun, damage: Damage, part: Part, made: Batch) -> None:
    """Raise ActstoreError unless what is intact of a part is what was made again, within the tolerance."""
    try:
        found = between(again.header, part, made, made.samples.select(KEY))
    except CorruptError:  # its rows: nothing says which vector is whose
        return
    differing = {
        name: pair
        for number in damage.batches
        for name, pair in again.differing(number, again.batch_size(number)).items()
    }
    allowed = tolerance(again.run.computed, again.header.dtype)
    beyond = summary(found, allowed, same_run=not differing).filter(~pl.col("within"))
    for row in beyond.iter_rows(named=True):
        other = "".join(f"; {name}: {then} then, {now} now" for name, (then, now) in differing.items())
        raise ActstoreError(
            f"{again.path}: {row['what']} of sample {row['sample_id']} made again is {row['furthest']:.3g} away from "
            f"what is intact of {part.commit.name}, and {allowed:g} is allowed: nothing was written{other}"
        )


def _publish(again: Rerun, content: Batch, by: dict[str, Any], replaced: dict[str, tuple[int, ...]]) -> Commit | None:
    """Commit the content in the place of the records `replaced`; None if another record has taken it."""
    while True:
        number = commits.next_compaction(again.path)  # before the rest is read: who publishes now has taken the number
        names = [name for name in commits.names(again.path) if name.startswith("c")]
        read, _ = commits.readable(again.path, again.header.crc32c, names)
        if not replaced.keys().isdisjoint(commits.superseded(read)):
            return None
        with Draft(again.path, number, "c") as draft:
            try:
                return draft.commit(content, again.header.crc32c, by, replaced)
            except AlreadyCommittedError:
                continue
