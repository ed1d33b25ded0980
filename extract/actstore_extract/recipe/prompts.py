"""Prompts: the text each sample is asked with, and the plan that lists them."""

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan

import polars as pl

from actstore.errors import ActstoreError, nearest
from actstore.format.schema import check_own_columns
from actstore_extract.pictures import MARKER
from actstore_extract.recipe.recipe import PromptSection, Recipe, RecipeError
from actstore_extract.samples import Samples
from actstore_extract.samples.columns import identifier

__all__ = ["ALL", "filled", "pieces", "plan", "texts"]

ALL = "<images>"
_TEXT = "[prompt] text"
_FIELD = re.compile(r"(\w+)(\[\d+\])?")


def plan(recipe: Recipe, samples: Samples) -> pl.DataFrame:
    """The samples with their columns prompt and prompt_order: image-text, text-image or text.

    Where the recipe has several orders, each sample is there once in each, as `SAMPLE/ORDER`, one after the other. A
    sample of order text has no image. "<images>" becomes a marker for each picture that the sample has. A sample that
    lacks what a {column} stands for has no prompt, and cannot be run. Raises RecipeError for a {column} that the
    samples do not have or that fills in no prompt, and for a column that a plan cannot have.
    """
    _check_columns(samples.table)
    _check_before(recipe.prompt, samples.table)
    text = recipe.prompt.text
    if not isinstance(text, dict):
        prompts = _marked(_own(samples.table) if text is None else _of_those(text, samples.table), samples.table)
        return _asked(samples.table, prompts, [prompt and _order(prompt) for prompt in prompts])
    tables = [_in_order(order, template, samples.table, alone=len(text) == 1) for order, template in text.items()]
    n = samples.table.height
    return pl.concat(tables)[[i + n * j for i in range(n) for j in range(len(tables))]]


def _check_columns(table: pl.DataFrame) -> None:
    taken = [name for name in table.columns if table[name].null_count() < table.height]
    for name in table.columns:
        if name == "sample_id":
            continue
        try:
            check_own_columns([name])
        except ActstoreError as error:
            plain = identifier(name)
            free = plain if plain != name and plain not in taken else f"own_{plain}"
            raise RecipeError(f'{error}: [samples] columns = {{ {free} = "{name}" }}') from None


def _check_before(prompt: PromptSection, table: pl.DataFrame) -> None:
    """RecipeError for a column in what is said before that the samples do not have."""
    for where, text in prompt.before():
        _columns(text, table.columns, where)


def _in_order(order: str, template: str, table: pl.DataFrame, *, alone: bool) -> pl.DataFrame:
    """The samples asked in one order, which their ids name unless it is `alone`."""
    if (MARKER in template or ALL in template) != (order != "text"):
        raise RecipeError(f"[prompt] text.{order} {template!r}: {MARKER} belongs into image-text and text-image alone")
    asked = _asked(table, _marked(_of_those(template, table), table), [order] * table.height)
    if order == "text":
        asked = asked.with_columns(image=pl.lit(None, table.schema["image"]))
    return asked if alone else asked.with_columns(pl.col("sample_id") + f"/{order}")


def _marked(prompts: list[str | None], table: pl.DataFrame) -> list[str | None]:
    """The prompts with a marker for each of a sample's pictures where they say all."""
    if not any(ALL in prompt for prompt in prompts if prompt is not None):
        return prompts
    counts = (len(names) if isinstance(names, list) else int(names is not None) for names in table["image"].to_list())
    return [prompt and prompt.replace(ALL, MARKER * count) for prompt, count in zip(prompts, counts, strict=True)]


def _asked(table: pl.DataFrame, prompts: Sequence[str | None], orders: Sequence[str | None]) -> pl.DataFrame:
    return table.with_columns(pl.Series("prompt", prompts, pl.String), pl.Series("prompt_order", orders, pl.String))


def _own(table: pl.DataFrame) -> list[str | None]:
    """The samples' own prompts."""
    if "prompt" not in table.columns:
        raise RecipeError("the samples have no column prompt: set [prompt] text, for example '<image>What is this?'")
    return _of_those("{prompt}", table)


def filled(template: str, row: Mapping[str, object], where: str) -> str:
    """The template, which a recipe has at `where`, filled in with the columns of one sample, by their names.

    Raises RecipeError where it lacks one.
    """
    columns = _columns(template, row.keys(), where)
    return _filled(template, {name: row[name] for name in columns}, str(row["sample_id"]), where)


def texts(template: str, table: pl.DataFrame, where: str) -> list[str]:
    """The template, which a recipe has at `where`, filled in with the columns of each sample.

    Raises RecipeError for a sample that lacks one.
    """
    return [_filled(template, row, sample_id, where) for sample_id, row in _rows(template, table, where)]


def _of_those(template: str, table: pl.DataFrame) -> list[str | None]:
    """The prompts of those samples that have what they stand for; RecipeError where none has."""
    found: list[str | None] = []
    first = None
    for sample_id, row in _rows(template, table, _TEXT):
        try:
            found.append(_filled(template, row, sample_id, _TEXT))
        except RecipeError as error:
            first = first or error
            found.append(None)
    if first and not any(one is not None for one in found):
        raise first
    return found


def _rows(template: str, table: pl.DataFrame, where: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Each sample's id with its columns that the template names."""
    columns = _columns(template, table.columns, where)
    rows = table.select(columns).iter_rows(named=True) if columns else ({} for _ in range(table.height))
    return zip(table["sample_id"].to_list(), rows, strict=True)


def _columns(template: str, present: Iterable[str], where: str) -> list[str]:
    """Columns that the template names, as {column} or, an item of a list, {column[0]}."""
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise RecipeError(f"{where} {template!r}: {error}; write {{{{ for a brace") from None
    names = {match[1] if (match := _FIELD.fullmatch(field)) else field: None for field in fields}
    known = list(present)
    for name in names:
        if name not in known:
            raise RecipeError(f"{where}: the samples have no column '{name}'{nearest(name, known)}")
    return list(names)


class _Filler(string.Formatter):
    """Fills in texts, numbers and the like; ValueError for what would become a word that nobody said.

    Items of a list follow each other without separator, as the papers put captions into prompts.
    """

    def convert_field(self, value: object, conversion: str | None) -> object:
        return super().convert_field(self.format_field(value, "") if conversion else value, conversion)

    def format_field(self, value: object, format_spec: str) -> str:
        if isinstance(value, list):
            return "".join(self.format_field(one, "") for one in value)
        if _is_missing(value):
            raise ValueError("an item is missing")
        if isinstance(value, dict | bytes):
            raise ValueError(f"{str(value)[:60]} is no text")
        return str(super().format_field(value, format_spec))


def pieces(template: str, row: Mapping[str, object]) -> Iterator[tuple[str, str | None]]:
    """The template piece by piece, filled in, each with the column that it is of, None for what is the template's.

    >>> list(pieces("The {kind[0]} is", {"kind": ["dog"]}))
    [('The ', None), ('dog', 'kind'), (' is', None)]
    """
    filler = _Filler()
    for literal, name, spec, conversion in filler.parse(template):
        if literal:
            yield literal, None
        if name is not None:
            own = f"{{{name}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
            yield filler.vformat(own, (), row), name.partition("[")[0]


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and isnan(value))


def _filled(template: str, row: dict[str, object], sample_id: str, where: str) -> str:
    """The template with a sample's own columns.

    >>> _filled("<image> {captions} {captions[1]}", {"captions": ["A dog.", "A cat."]}, "1.jpg", "text")
    '<image> A dog.A cat. A cat.'
    """
    for name, value in row.items():
        if _is_missing(value):
            raise RecipeError(f"{where}: sample {sample_id} has no {name}")
    try:
        return "".join(text for text, _ in pieces(template, row))
    except IndexError:
        raise RecipeError(f"{where} {template!r}: sample {sample_id} has fewer items") from None
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where} {template!r}: sample {sample_id}: {error}") from None


def _order(text: str) -> str:
    """Which comes first: images if text follows the last of them.

    >>> [_order(text) for text in ("<image>What is this?", "A dog <image>", "A dog", "<image>A dog<image>")]
    ['image-text', 'text-image', 'text', 'text-image']
    """
    before, marker, after = text.rpartition(MARKER)
    if not marker:
        return "text"
    return "image-text" if after.strip() or not before.replace(MARKER, "").strip() else "text-image"
