"""Experiments of a report: the same call on one or several stores, to be shown side by side."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import polars.selectors as cs

from actstore.errors import ActstoreError
from actstore.format.results import Result
from actstore.store import Store
from actstore_analyze import registry
from actstore_analyze.knockout.replayed import KnockoutReplayed
from actstore_analyze.knockout.study import Knockout
from actstore_analyze.overlap.study import Overlap
from actstore_analyze.patch.replayed import Replayed
from actstore_analyze.patch.study import Patched, has_patches
from actstore_analyze.report.choice import EVERYTHING as EVERY
from actstore_analyze.report.choice import Choice, verb
from actstore_analyze.study import saved
from actstore_analyze.study.conditions import specs
from actstore_analyze.study.knocked import has_knockouts
from actstore_analyze.study.recall import answer
from actstore_analyze.study.selection import Say, figure_roles
from actstore_analyze.study.study import EVERYTHING, Study
from actstore_analyze.study.subjects import Subject

__all__ = ["Experiment", "Shown", "others", "overlaps"]

USUAL_K = 30


@dataclass(frozen=True)
class Shown:
    """What one store answered: its table, and the calls that made it."""

    subject: Subject
    table: pl.DataFrame
    calls: list[Study]


@dataclass(frozen=True)
class Experiment:
    """Answers of several stores to calls that differ in nothing but roles and layers."""

    call: Study
    shown: list[Shown]

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        return self.call.title

    @property
    def name(self) -> str:
        """The name of its files."""
        return self.call.slug


def overlaps(subjects: Sequence[Subject], *, choice: Choice = EVERY, say: Say) -> list[Experiment]:
    """The saved label overlaps of the stores, those of the same kind together; a store without any is measured.

    It is with the k that the others have, where that fits it, and if none has any with one that fits all of them.
    A store that cannot be measured is passed over, and said; so is one of interventions, which its own measures show.
    Those of all rows come first.
    """
    stores = [subject.store for subject in subjects]
    ks = [_common_k(store, stores) for store in stores]
    answers = [(subject, _current(subject.store, k, choice, say)) for subject, k in zip(subjects, ks, strict=True)]
    return _together(answers, ["role", "condition", "layer"])


def others(subjects: Sequence[Subject], *, choice: Choice = EVERY, say: Say) -> list[Experiment]:
    """The results of every other measure that commands draw, as the stores are now, by measure.

    They are the saved ones; what interventions did is measured where a store has some and no result.
    """
    return [
        experiment
        for name in registry.MEASURES
        if name != Overlap.measure
        for experiment in _together(
            [(subject, _answers(subject.store, registry.load(name).study, choice, say)) for subject in subjects], None
        )
    ]


def _answers(store: Store, study: type[Study], choice: Choice, say: Say) -> list[tuple[Study, pl.DataFrame]]:
    """Saved answers, or that to the usual call on a store of interventions."""
    draw = registry.load(study.measure).draw
    found = saved.shown(
        store, study.measure, study.again, lambda _, table: draw(table, title=""), say, takes=choice.takes
    )
    call = None if found or not choice.asks(verb(study.measure)) else _intervened(store, study)
    if call is None:
        return found
    say(f"{store}: no saved {call.title.lower()}; computing it")
    try:
        return [(call, _measured(store, call, say))]
    except ActstoreError as error:
        say(f"{store}: no {call.title.lower()}: {error}")
        return []


def _measured(store: Store, call: Study, say: Say) -> pl.DataFrame:
    """The table of a call, saved in the store; that it could not be is said."""
    found = answer(store, call, say=say)
    if found.result is None:
        say(f"{store}: {found.note}")
    return found.table


def _intervened(store: Store, study: type[Study]) -> Study | None:
    """The usual call of a measure of interventions, where the store has such."""
    if study is Knockout and has_knockouts(store):
        return Knockout.of(store, k=_fitting_k(store))
    if study is Patched and has_patches(store):
        return Patched.of(store)
    return None


def _together(
    answers: Sequence[tuple[Subject, Sequence[tuple[Study, pl.DataFrame]]]], key: list[str] | None
) -> list[Experiment]:
    """Calls of the same kind together; a table's rows once, by key, or else by everything that is no float."""
    found: dict[str, list[Shown]] = {}
    calls: dict[str, Study] = {}
    for subject, own in answers:
        for kind, alike in _by_kind(own).items():
            calls.setdefault(kind, alike[0][0])
            table = pl.concat([table for _, table in alike], how="diagonal_relaxed")  # versions differ in columns
            table = table.unique(key or ~cs.float(), keep="first", maintain_order=True)
            found.setdefault(kind, []).append(Shown(subject, table, [call for call, _ in alike]))
    ordered = sorted(found, key=lambda kind: calls[kind].sql != EVERYTHING)
    return [Experiment(calls[kind], found[kind]) for kind in ordered]


def _current(store: Store, k: int, choice: Choice, say: Say) -> list[tuple[Study, pl.DataFrame]]:
    """Calls with their tables, newest first, as the store is now: saved ones, else the newest of before, else usual."""
    draw = registry.load(Overlap.measure).draw
    current: list[tuple[Study, pl.DataFrame]] = [
        *saved.shown(
            store, Overlap.measure, Overlap.again, lambda _, table: draw(table, title=""), say, takes=choice.takes
        )
    ]
    before = _overlaps(store)
    if current or not choice.asks(Overlap.measure) or (not before and _for_interventions(store)):
        return current
    path = shlex.quote(str(store))
    if not before and "label" not in store.sql("from rows limit 0").columns:
        say(
            f"{store}: its samples have no label, and so no label overlap; dimension and norms need none: "
            f"actstore dimension {path}, actstore outliers {path}; "
            f"of another column: actstore overlap {path} --label COLUMN"
        )
        return []
    try:
        call = before[0][1] if before else _usual(store, k)
        say(f"{store}: no saved label overlap of what it holds now; computing it (k = {call.k})")
        return [(call, _measured(store, call, say))]
    except ActstoreError as error:
        say(f"{store}: no label overlap: {error}")
        say(f"to have one in the report, run: actstore overlap {path} --label COLUMN")
        return []


def _for_interventions(store: Store) -> bool:
    """Whether samples ran under interventions, or some were replayed from the store: then it was made for them."""
    return bool(specs(store)) or any(
        one.measure in (Replayed.measure, KnockoutReplayed.measure) for one in store.results()
    )


def _overlaps(store: Store) -> list[tuple[Result, Overlap]]:
    """Saved label overlaps and their calls, newest first."""
    return saved.calls(store, Overlap.measure, Overlap.again)


def _usual(store: Store, k: int) -> Overlap:
    """The paper's call on what the store has, with k neighbours."""
    roles = [*figure_roles(store), *(["last"] if "last" in store.roles else [])]
    return Overlap.of(store, roles=roles or None, k=k)


def _common_k(store: Store, others: Sequence[Store]) -> int:
    """Neighbours for a store without a label overlap, so that its own stands beside the others'.

    The k of their newest saved one of which the store has twice as many samples, else one that fits all without any.
    """
    found = [one for other in others for one in _overlaps(other)]
    newest = sorted(found, key=lambda one: str(one[0].created), reverse=True)
    fitting = [call.k for _, call in newest if 2 * call.k <= _samples(store)]
    bare = [other for other in others if not (_overlaps(other) or _for_interventions(other))]
    return fitting[0] if fitting else min(map(_fitting_k, [store, *bare]))


def _fitting_k(store: Store) -> int:
    """The paper's k, or fewer neighbours where there are few samples."""
    return min(USUAL_K, max(1, _samples(store) // 4))


def _samples(store: Store) -> int:
    return int(store.sql("select count(distinct sample_id) from samples where status = 'ok'").item())


def _by_kind(answers: Sequence[tuple[Study, pl.DataFrame]]) -> dict[str, list[tuple[Study, pl.DataFrame]]]:
    kinds: dict[str, list[tuple[Study, pl.DataFrame]]] = {}
    for call, table in answers:
        fixed = {name: value for name, value in call.parameters.items() if name not in ("roles", "layers")}
        kinds.setdefault(json.dumps(fixed, sort_keys=True), []).append((call, table))
    return kinds
