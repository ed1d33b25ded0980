"""The run card of a store as a reader wants it: who produced it, what it holds."""

import json
import re
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from actstore.errors import ActstoreError
from actstore.format.header import span
from actstore.store import Store
from actstore_analyze.report.places import Places
from actstore_analyze.study.conditions import specs
from actstore_analyze.study.subjects import Subject

__all__ = ["Compared", "commands", "compared", "lines", "listed", "recipe", "shipped_card"]
HASH_DIGITS = 12
SHIPPED = re.compile(r"digits-[a-z]+")


class Compared(NamedTuple):
    """Run cards beside each other: what all stores have alike, and a row of each with the fields that differ."""

    alike: dict[str, str]
    fields: list[str]
    rows: list[tuple[str, list[str]]]


def compared(subjects: Sequence[Subject], places: Places) -> Compared:
    """The run cards of some stores; a field that one of them lacks is a dash."""
    cards = [lines(subject.store, places) for subject in subjects]
    fields = list(dict.fromkeys(name for card in cards for name in card))
    alike = {name: cards[0].get(name, "") for name in fields if len({card.get(name) for card in cards}) == 1}
    differing = [name for name in fields if name not in alike]
    rows = [
        (subject.title, [card.get(name, "–") for name in differing])
        for subject, card in zip(subjects, cards, strict=True)
    ]
    return Compared(alike, differing, rows)


def lines(store: Store, places: Places) -> dict[str, str]:
    """Name -> value, what is not known left out."""
    run, header = store.run, store.header
    counts = dict(store.sql("select status, count(*) from samples group by all").iter_rows())
    ok, failed = counts.get("ok", 0), counts.get("failed", 0)
    undone = store.plan.height - ok - failed
    stored = sum(commit.bytes for commit in store.commits)
    versions = run["versions"] if isinstance(run.get("versions"), dict) else {}
    prompt = _inside(run, "recipe", "prompt", "text")
    card = {
        "folder": places.path(store.place),
        "model": places.value(run.get("model")),
        "architecture": run.get("architecture"),
        "revision": run.get("revision"),
        "weights (sha256)": _short(run.get("weights_sha256")),
        "runs in": _joined(run.get("dtype"), run.get("attention"), run.get("device")),
        "blocked attention": "; ".join(listed(store, "blocked")),
        "layers": f"{span(store.layers)} of width {header.d_model}, stored as {header.dtype}",
        "roles": ", ".join(store.roles),
        "samples": f"{ok:,} ok, {failed:,} failed" + (f", {undone:,} not done" if undone else ""),
        "prompt": _options(prompt, ": ", "; ") if isinstance(prompt, dict) else prompt,
        "asked in a chat": _chat(_inside(run, "recipe", "prompt")),
        "generation": _options(run.get("generation")),
        "seed": run.get("seed"),
        "size": f"{stored / 1e6:,.1f} MB in {len(store.parts):,} part{'s' * (len(store.parts) != 1)}",
        "created": f"{header.created[:16].replace('T', ' ')} UTC",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return {name: str(value) for name, value in card.items() if value not in (None, "")}


def _chat(prompt: Any) -> str | None:
    """What is said before, where samples are asked in a chat.

    >>> _chat({"chat": True, "system": "Be brief."}), _chat({"text": "a"})
    ('system: Be brief.; 0 turns before', None)
    """
    if not isinstance(prompt, dict) or not prompt.get("chat"):
        return None
    system, turns = prompt.get("system"), len(prompt.get("turns") or ())
    said = [f"system: {system}"] if system else []
    return "; ".join([*said, f"{turns} turn{'s' * (turns != 1)} before"])


def _short(digest: object) -> str | None:
    return f"{str(digest)[:HASH_DIGITS]}…" if digest else None


def _joined(*values: object) -> str:
    return ", ".join(str(value) for value in values if value)


def _options(found: object, equals: str = " = ", between: str = ", ") -> str | None:
    """Options of the run card in a line."""
    if not isinstance(found, dict):
        return None
    return between.join(f"{name}{equals}{value}" for name, value in found.items())


def listed(store: Store, key: str) -> list[str]:
    """A list of the run card, empty where it has none."""
    value = store.run.get(key)
    return [str(one) for one in value] if isinstance(value, list) else []


def _inside(value: Any, *keys: str) -> Any:
    """A value of the run card however deep, None where it has none: other extractors write other cards."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def commands(store: Store, places: Places) -> list[str]:
    """The commands that made the store, from the recipe that it holds; none for a store that was not extracted."""
    if not isinstance(store.run.get("recipe"), dict):
        return []
    path = places.path(store.place)
    file = f"{store.path.resolve().name}.toml"
    steers = [str(one) for spec in specs(store, "steer", "files").values() for each in spec for one in each["files"]]
    names = ", ".join(sorted({Path(one).name for one in steers}))
    return [
        *([f"# steers with {names}, which no store holds: actstore export makes such files"] if names else []),
        f"actstore recipes show {shlex.quote(path)} > {shlex.quote(file)}",
        shlex.join(["actstore", "extract", file, path]),
    ]


def recipe(store: Store, places: Places) -> str | None:
    """The recipe of the store as TOML, without the paths of this machine; as JSON where this version cannot read it."""
    card = store.run.get("recipe")
    if not isinstance(card, dict):
        return None
    shown = places.value(card)
    try:
        from actstore_extract.recipe.recipe import recorded, text_of

        return text_of(recorded(shown, str(store)))
    except (ActstoreError, ImportError):
        return json.dumps(shown, indent=2, ensure_ascii=False)


def shipped_card(store: Store) -> dict[str, Any]:
    """The card of a model that ships with actstore: what it is, what it is not, what was measured of it; else {}."""
    name = str(store.run.get("model") or "")
    if not SHIPPED.fullmatch(name):
        return {}
    try:
        path = files("actstore_extract").joinpath("demo", "models", name, "card.json")
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ModuleNotFoundError, OSError, ValueError):
        return {}
