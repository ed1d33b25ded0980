"""vlm-lens' database: SQLite with a row for each module, picture and prompt, its tensor as torch saved it."""

import io
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from actstore.errors import ActstoreError, nearest
from actstore_extract.run.importing.files import Array, flat
from actstore_extract.run.importing.names import Pattern
from actstore_extract.run.importing.source import ALL, Block, Source, Vectors, check_points, few, shape_of
from actstore_extract.saved import load_torch

__all__ = ["source"]

TABLE = "tensors"
NEEDED = ("id", "name", "architecture", "image_path", "prompt", "layer", "tensor")
MODULES = ("*layers.{block}", "*.h.{block}", "*blocks.{block}")


class _Kept(NamedTuple):
    """A row of the table, without its tensor."""

    row: int
    model: str
    sample: tuple[Any, ...]  # image_path, image_id, prompt, label
    layer: int
    pooling: str | None


def source(path: Path, names: Sequence[str] = (), model: str | None = None) -> Source:
    """The samples in a database, in the order in which they were run; module layers.l is residual point l + 1.

    names: patterns of the modules that are meant. model: where there are several.
    """
    if not path.is_file():
        raise ActstoreError(f"{path} does not exist")
    kept, others, columns = _rows(path, [Pattern(text) for text in names or MODULES])
    models = sorted({one.model for one in kept})
    if (model is None and len(models) > 1) or (model is not None and model not in models):
        raise ActstoreError(
            f"{path} is of models {', '.join(models)}: say which, --model NAME{nearest(model or '', models)}"
        )
    kept = [one for one in kept if one.model == (model or models[0])]
    if len(pooled := {one.pooling for one in kept}) > 1:
        raise ActstoreError(f"{path}: vectors pooled by {', '.join(map(str, pooled))}; a database of one is read")
    samples: dict[tuple[Any, ...], dict[int, int]] = {}
    for one in kept:
        rows = samples.setdefault(one.sample, {})
        if one.layer in rows:
            raise ActstoreError(
                f"{path}: rows {rows[one.layer]} and {one.row} are both of layer {one.layer} of {one.sample}; remove "
                "one, or say with --names which modules are meant, such as '*language_model.layers.{block}'"
            )
        rows[one.layer] = one.row
    role = ALL if (pooling := pooled.pop()) is None else f"{ALL}-{pooling}"
    blocks: list[Block] = []
    points: dict[str, list[tuple[str, int]]] = {}
    for sample, rows in samples.items():
        name = f"{path.name}, sample {sample[2]!r}"
        n_positions = _checked(path, rows, role, name)
        positions = {role: np.arange(n_positions)} if pooling is None else {}
        blocks.append(Block(name, 1, partial(_read, path, rows, role), positions))
        points[f"{len(points)}. {name}"] = [(role, layer) for layer in rows]
    said = [f"{role} are all positions" if pooling is None else f"{role} is the {pooling} over all positions"]
    if others:
        said.append(f"left out: modules {few(others)}")
    table = pl.DataFrame(list(samples), schema=columns, orient="row")
    table = table.select(column for column in table if column.null_count() < len(column))
    card = {"model": model or models[0]}
    return Source(blocks, check_points(points), [path], table, card, said)


def _rows(path: Path, patterns: Sequence[Pattern]) -> tuple[list[_Kept], list[str], list[str]]:
    """The rows of modules that are residual points, the names of other modules, and the columns of samples."""
    with closing(_opened(path)) as database:
        try:
            columns = [name for _, name, *_ in database.execute(f"pragma table_info({TABLE})")]
            if lacking := [name for name in NEEDED if name not in columns]:
                raise ActstoreError(f"{path}: its table {TABLE} has no column {lacking[0]}; it is not vlm-lens'")
            optional = [name if name in columns else "null" for name in ("image_id", "label", "pooling_method")]
            query = (
                f"select id, name, image_path, {optional[0]}, prompt, {optional[1]}, layer, {optional[2]} from {TABLE}"
            )
            found = database.execute(f"{query} order by id").fetchall()
        except sqlite3.Error as error:
            raise ActstoreError(f"{path}: cannot be read ({error}); perhaps its copy was cut") from None
    kept, others, towers = [], dict[str, None](), dict[str, str]()
    for row, name, image, image_id, prompt, label, module, pooling in found:
        said = next((said for pattern in patterns if (said := pattern.match(module, None))), None)
        if said is None or said.layer is None:
            others[module] = None
        else:
            towers.setdefault(re.sub(r"\d+", "#", module), module)
            kept.append(_Kept(row, name, (image, image_id, prompt, label), said.layer, pooling))
    if not kept:
        raise ActstoreError(
            f"{path}: no module is called {', '.join(pattern.text for pattern in patterns)}; there are "
            f"{', '.join(others) or 'none'}: say what is a block's output, --names 'model.layers.{{block}}'"
        )
    if len(towers) > 1:
        raise ActstoreError(
            f"{path}: {' and '.join(towers.values())} are of different parts of a model, which a store does not mix: "
            "say with --names which is meant, such as '*language_model.layers.{block}'"
        )
    return kept, list(others), ["image", "image_id", "prompt", "label"]


def _opened(path: Path) -> sqlite3.Connection:
    """The database, to be read only."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _checked(path: Path, rows: dict[int, int], role: str, name: str) -> int:
    """Positions of a sample; ActstoreError unless all of its layers have the same."""
    shapes = {shape_of(array) for array in _read(path, rows, role).values()}
    if len(shapes) > 1:
        raise ActstoreError(f"{name}: its layers have shapes {sorted(shapes)}; one is wanted")
    return shapes.pop()[1]


def _read(path: Path, rows: dict[int, int], role: str) -> Vectors:
    return {(role, layer): array for layer, array in _tensors(path, rows)}


def _tensors(path: Path, rows: dict[int, int]) -> Iterator[tuple[int, Array]]:
    with closing(_opened(path)) as database:
        for layer, row in rows.items():
            (held,) = database.execute(f"select tensor from {TABLE} where id = ?", (row,)).fetchone()
            if not isinstance(held, bytes):
                raise ActstoreError(f"{path}, row {row}: its tensor is {type(held).__name__}, not what torch saved")
            found = flat(load_torch(Path(f"{path}, row {row}"), data=io.BytesIO(held)), path)
            array = next(iter(found.values()))  # of a module that returns a tuple, its hidden states
            if len(shape_of(array)) not in (2, 3) or shape_of(array)[0] != 1:
                raise ActstoreError(
                    f"{path}, row {row}: a tensor {shape_of(array)}; one sample is wanted, (1, tokens, d)"
                )
            yield layer, array if len(shape_of(array)) == 3 else array[:, None]
