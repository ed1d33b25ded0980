"""The run card of a store as a reader wants it: who produced it, what it holds."""

import json
import re
import shlex
from importlib.resources import files
from typing import Any

from actstore.format.header import span
from actstore.store import Store

__all__ = ["command", "lines", "listed", "shipped_card"]
HASH_DIGITS = 12
SHIPPED = re.compile(r"digits-[a-z]+")


def lines(store: Store) -> dict[str, str]:
    """Name -> value, what is not known left out."""
    run, header = store.run, store.header
    counts = dict(store.sql("select status, count(*) from samples group by all").iter_rows())
    ok, failed = counts.get("ok", 0), counts.get("failed", 0)
    undone = store.plan.height - ok - failed
    stored = sum(commit.bytes for commit in store.commits)
    versions = run["versions"] if isinstance(run.get("versions"), dict) else {}
    card = {
        "store": str(store.path),
        "model": run.get("model"),
        "architecture": run.get("architecture"),
        "revision": run.get("revision"),
        "weights (sha256)": _short(run.get("weights_sha256")),
        "runs in": _joined(run.get("dtype"), run.get("attention"), run.get("device")),
        "blocked attention": "; ".join(listed(store, "blocked")),
        "layers": f"{span(store.layers)} of width {header.d_model}, stored as {header.dtype}",
        "roles": ", ".join(store.roles),
        "samples": f"{ok:,} ok, {failed:,} failed" + (f", {undone:,} not done" if undone else ""),
        "prompt": _inside(run, "recipe", "prompt", "text"),
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


def _options(found: object) -> str | None:
    """Options of the run card in a line."""
    return ", ".join(f"{name} = {value}" for name, value in found.items()) if isinstance(found, dict) else None


def listed(store: Store, key: str) -> list[str]:
    """A list of the run card, empty where it has none."""
    value = store.run.get(key)
    return [str(one) for one in value] if isinstance(value, list) else []


def _inside(value: Any, *keys: str) -> Any:
    """A value of the run card however deep, None where it has none: other extractors write other cards."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def command(store: Store) -> str | None:
    """The command that made the store, from its recipe's name; None for a store that was not extracted."""
    recipe = store.run.get("recipe_name")
    if not recipe:
        return None
    limit = _inside(store.run, "recipe", "samples", "limit")
    return shlex.join(
        ["actstore", "extract", str(recipe), str(store.path), *(["--limit", str(limit)] if limit else [])]
    )


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
