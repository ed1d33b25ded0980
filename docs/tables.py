"""Parts of the reference, made from the code that they describe: a page has `% tables.NAME` where NAME's text goes."""

import re
import sys
from collections.abc import Iterable, Sequence
from inspect import cleandoc

import click
import polars as pl
from pydantic import BaseModel
from stores import WORK

from actstore.commands.main import cli
from actstore.sql.overview import schema
from actstore.store import open as open_store
from actstore_extract import legend
from actstore_extract.recipe.keys import NEEDED, SECTIONS, Key, keys
from actstore_extract.samples import SOURCES, Source
from actstore_extract.training.recipe import SECTIONS as TRAINING

_TITLES = {
    "top": "Top of the file",
    "model of an adapter": "`[model]`, of an adapter",
    "model of lora": "`[model]`, of LoRA",
    "prompt.turns": "`[[prompt.turns]]`",
    "conditions, knockout": "`[[conditions]]`, a knockout",
    "conditions, patch": "`[[conditions]]`, a patch",
    "conditions, steer": "`[[conditions]]`, steering",
}


def recipe_keys() -> str:
    """Every section of a recipe with its keys."""
    own = {name: kind for name, kind in SECTIONS.items() if kind is Source or not issubclass(kind, Source)}
    return "\n\n".join(_section(_TITLES.get(name, f"`[{name}]`"), name, kind) for name, kind in own.items())


def training_keys() -> str:
    """The same of recipes of trainings."""
    return "\n\n".join(_section(_TITLES.get(name, f"`[{name}]`"), name, kind) for name, kind in TRAINING.items())


def sources() -> str:
    """Every source of samples: where its data are handed out and how they lie, its keys, the columns that it makes."""
    return "\n\n".join(_source(name, kind) for name, kind in SOURCES.items())


def commands() -> str:
    """Every command with its first sentence, and the way to it on the page."""
    context = click.Context(cli)
    every = [(name, cli.get_command(context, name)) for name in cli.list_commands(context)]
    rows = [
        (f'<a href="#actstore-{name}"><code>{name}</code></a>', _text(one.get_short_help_str(limit=200)))
        for name, one in every
        if one is not None
    ]
    return _table(("command", "what it does"), rows)


def _source(name: str, kind: type[Source]) -> str:
    layout = (sys.modules[kind.__module__].__doc__ or "").partition("\n\n")[2].strip("\n")
    said = [_section(f"`{name}`", f"samples of {name}", kind)]
    said += [f"Handed out by {_text(kind.origin)}."] if kind.origin else []
    said += [f"```text\n{layout}\n```"] if layout else []
    return "\n\n".join([*said, f"Columns: {_text(cleandoc(kind.everything.__doc__ or ''))}"])


def _section(title: str, name: str, kind: type[BaseModel]) -> str:
    own = [_key(key) for key in keys({name: kind})]
    return "\n\n".join([f"## {title}", _text(cleandoc(kind.__doc__ or "")), *own])


def _key(key: Key) -> str:
    """A key as an item of a definition list."""
    without = NEEDED if key.default == NEEDED else f"without it `{key.default}`" if key.default else "optional"
    return f"`{key.key}` ({_text(key.kind)}; {without})\n: {_text(key.meaning)}\n\n  ```toml\n  {key.example}\n  ```"


def _text(said: str) -> str:
    """Words of the code, in which `<image>` outside of code is no markup, and addresses are links."""
    pieces = said.split("`")
    plain = [re.sub(r"https://[^\s,)]+", r"<\g<0>>", re.sub(r"([<*])", r"\\\1", piece)) for piece in pieces[::2]]
    pieces[::2] = plain
    return "`".join(pieces)


def columns() -> str:
    """The views of a store, each with its columns."""
    found = schema(open_store(WORK / "demo" / "fusion").sql)
    said = []
    for view in found["view"].unique(maintain_order=True):
        own = found.filter(view=view)
        if own["meaning"].drop_nulls().is_empty() or own["meaning"][0] == "a saved result":
            continue
        rows = own.filter(pl.col("column").is_not_null(), pl.col("meaning").is_not_null())
        table = [
            (f"`{column}`", f"`{kind}`", meaning)
            for column, kind, meaning in rows.select("column", "type", "meaning").rows()
        ]
        said.append(
            f"## `{view}`\n\n{own['meaning'][0].capitalize()}.\n\n{_table(('column', 'type', 'meaning'), table)}"
        )
    return "\n\n".join(said)


def roles() -> str:
    """All roles, and which positions each is in the drawn prompt."""
    rows = [
        (f"`{role}`", meaning, f"`{shown or role}`", f"`{at}`" if at else "")
        for role, meaning, shown, at in legend.example().rows()
    ]
    table = _table(("role", "meaning", "for example", "positions in the drawing"), rows)
    return f"```text\n{legend.prompt()}\n```\n\n{table}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
