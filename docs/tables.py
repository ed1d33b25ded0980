"""Tables of the reference, made from the code that they describe."""

import json
from collections.abc import Iterable, Sequence
from inspect import cleandoc
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import polars as pl
from IPython.display import Markdown
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from actstore.sql.overview import schema
from actstore.store import open as open_store
from actstore_extract import legend
from actstore_extract.interventions.knockouts import KnockoutSection
from actstore_extract.interventions.patches import PatchSection
from actstore_extract.interventions.steers import SteerSection
from actstore_extract.recipe.recipe import CaptureSection, ModelSection, PromptSection, Recipe, TurnSection
from actstore_extract.samples import SOURCES

SECTIONS: dict[str, type[BaseModel]] = {
    "Top of the file": Recipe,
    "`[model]`": ModelSection,
    "`[prompt]`": PromptSection,
    "`[[prompt.turns]]`": TurnSection,
    "`[capture]`": CaptureSection,
    "`[[conditions]]`, a knockout": KnockoutSection,
    "`[[conditions]]`, a patch": PatchSection,
    "`[[conditions]]`, steering": SteerSection,
}


def recipe_keys() -> Markdown:
    """Every section of a recipe with its keys, their types and what they are without."""
    return Markdown("\n\n".join(_section(name, kind) for name, kind in SECTIONS.items()))


def sources() -> Markdown:
    """The same of every source of samples."""
    return Markdown("\n\n".join(_section(f'`source = "{name}"`', kind) for name, kind in SOURCES.items()))


def _section(title: str, kind: type[BaseModel]) -> str:
    rows = [
        (
            f"`{name}`",
            f"`{_type(one.annotation)}`",
            "the file's name" if kind is Recipe and name == "name" else _default(one.default),
        )
        for name, one in kind.model_fields.items()
        if not (
            one.annotation is not None and isinstance(one.annotation, type) and issubclass(one.annotation, BaseModel)
        )
    ]
    return f"## {title}\n\n{_prose(kind)}\n\n{_table(('key', 'type', 'without it'), rows)}"


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "needed"
    return "" if value is None else f"`{json.dumps(value)}`"


def _prose(kind: type[BaseModel]) -> str:
    """A docstring, in which `<image>` outside of code is no markup."""
    pieces = cleandoc(kind.__doc__ or "").split("`")
    return "`".join(piece if i % 2 else piece.replace("<", r"\<") for i, piece in enumerate(pieces))


def _type(annotation: Any) -> str:
    """`list[str] | None`, without where types come from."""
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(_type, get_args(annotation)))
    inner = ", ".join(map(_type, get_args(annotation)))
    name = getattr(annotation, "__name__", str(annotation))
    if isinstance(annotation, type) and issubclass(get_origin(annotation) or annotation, BaseModel):
        name = "table"
    return {"NoneType": "none", "Ellipsis": "..."}.get(name, name) + (f"[{inner}]" if inner else "")


def columns(path: str) -> Markdown:
    """The views of a store, each with its columns."""
    found = schema(open_store(path).sql)
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
    return Markdown("\n\n".join(said))


def roles() -> Markdown:
    """All roles, and which positions each is in the drawn prompt."""
    rows = [
        (f"`{role}`", meaning, f"`{shown or role}`", f"`{at}`" if at else "")
        for role, meaning, shown, at in legend.example().rows()
    ]
    table = _table(("role", "meaning", "for example", "positions in the drawing"), rows)
    return Markdown(f"```text\n{legend.prompt()}\n```\n\n{table}")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
