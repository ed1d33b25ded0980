"""Experiments of a report: the same call on one or several stores, to be shown side by side."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from actstore.errors import ActstoreError
from actstore.results import Result
from actstore.store import Store
from actstore_analyze.curves import Overlap
from actstore_analyze.recall import answer
from actstore_analyze.runcard import Subject
from actstore_analyze.selection import USUAL, Say

__all__ = ["Experiment", "Shown", "command", "overlaps"]

USUAL_K = 30
USUALLY = ("euclidean", "uniform")
EVERYTHING = "from rows"


@dataclass(frozen=True)
class Shown:
    """What one store answered: its table, and the calls that made it."""

    subject: Subject
    table: pl.DataFrame
    calls: list[Overlap]


@dataclass(frozen=True)
class Experiment:
    """Answers of several stores to calls that differ in nothing but roles and layers."""

    call: Overlap
    shown: list[Shown]

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Label overlap with “{self.call.label}”, k = {self.call.k}"]
        asked += [part for part in (self.call.metric, self.call.weights) if part not in USUALLY]
        asked += [self.call.sql] if self.call.sql != EVERYTHING else []
        return ", ".join(asked)

    @property
    def name(self) -> str:
        """The name of its files."""
        other = [part for part in (self.call.metric, self.call.weights) if part not in USUALLY]
        return "-".join([f"label-overlap-k{self.call.k}", *other])


def overlaps(subjects: Sequence[Subject], *, say: Say) -> list[Experiment]:
    """The saved label overlaps of the stores, those of the same kind together; a store without any is measured.

    A store that cannot be measured is passed over, and said. Those of all rows come first.
    """
    found: dict[str, list[Shown]] = {}
    calls: dict[str, Overlap] = {}
    for subject in subjects:
        for kind, answers in _by_kind(_current(subject.store, say)).items():
            calls.setdefault(kind, answers[0][0])
            table = pl.concat(table for _, table in answers).unique(
                ["role", "condition", "layer"], keep="first", maintain_order=True
            )
            found.setdefault(kind, []).append(Shown(subject, table, [call for call, _ in answers]))
    ordered = sorted(found, key=lambda kind: calls[kind].sql != EVERYTHING)
    return [Experiment(calls[kind], found[kind]) for kind in ordered]


def _current(store: Store, say: Say) -> list[tuple[Overlap, pl.DataFrame]]:
    """Calls with their tables, newest first, as the store is now: saved ones, else the newest of before, else usual."""
    saved = sorted((one for one in store.results() if one.measure == "overlap"), key=_age, reverse=True)
    current = [(_call(one), one.table()) for one in saved if one.state == store.state]
    if current:
        return current
    try:
        call = _call(saved[0]) if saved else _usual(store)
        say(f"{store.path}: no saved label overlap of what it holds now; computing it (k = {call.k})")
        return [(call, answer(store, call, say=say).table)]
    except ActstoreError as error:
        say(f"{store.path}: no label overlap: {error}")
        say(f"to have one in the report, run: actstore overlap {shlex.quote(str(store.path))} --label COLUMN")
        return []


def _age(result: Result) -> str:
    return result.created


def _call(result: Result) -> Overlap:
    parameters: dict[str, Any] = result.parameters
    return Overlap(**parameters | {name: tuple(parameters[name]) for name in ("roles", "layers")})


def _usual(store: Store) -> Overlap:
    """The paper's call on what the store has: fewer neighbours where there are few samples."""
    roles = [role for role in (*USUAL, "last") if role in store.roles]
    n = int(store.sql("select count(*) from samples where status = 'ok'").item())
    return Overlap.of(store, roles=roles or None, k=min(USUAL_K, max(1, n // 4)))


def _by_kind(answers: list[tuple[Overlap, pl.DataFrame]]) -> dict[str, list[tuple[Overlap, pl.DataFrame]]]:
    kinds: dict[str, list[tuple[Overlap, pl.DataFrame]]] = {}
    for call, table in answers:
        fixed = {name: value for name, value in call.parameters.items() if name not in ("roles", "layers")}
        kinds.setdefault(json.dumps(fixed, sort_keys=True), []).append((call, table))
    return kinds


def command(call: Overlap, store: Path) -> str:
    """The command line of a call; options with their usual value are not written.

    >>> command(Overlap(roles=("eoi", "last"), layers=(0, 1), k=10), Path("demo/fusion"))
    'actstore overlap demo/fusion --roles eoi,last --layers 0,1 --label label -k 10'
    """
    usual = Overlap(roles=(), layers=())
    words = ["actstore", "overlap", str(store)]
    words += [call.sql] if call.sql != usual.sql else []
    words += ["--roles", ",".join(call.roles), "--layers", ",".join(map(str, call.layers))]
    words += ["--label", call.label, "-k", str(call.k)]
    for name in ("metric", "weights", "positions", "seed"):
        value = getattr(call, name)
        words += [f"--{name}", str(value)] if value != getattr(usual, name) else []
    return shlex.join(words)
