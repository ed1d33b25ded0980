"""Creation: a new store with its plan, its vocabulary and nothing else."""

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from actstore.errors import ActstoreError
from actstore.format.commits import File
from actstore.format.given import named, numbers, path_of, short, truth, whole
from actstore.format.header import Header, around, check_capture, problem_of_rows
from actstore.format.lens import FILES as LENS_FILES
from actstore.format.lens import Lens
from actstore.format.names import COMMITS, FORMAT, HEADER, PARTS, PICTURED, PLAN, RESULTS, VOCABULARY
from actstore.format.plan import prepare
from actstore.format.schema import NOTHING, check_own_columns
from actstore.format.schema import PLAN as PLAN_COLUMNS
from actstore.format.schema import VOCABULARY as VOCABULARY_COLUMNS
from actstore.format.tables import write_table
from actstore.sql.own import frame
from actstore.storage import local
from actstore.storage.links import real
from actstore.store import Store


def create(
    path: Path | str,
    *,
    plan: pl.DataFrame,
    layers: Sequence[int],
    d_model: int,
    dtype: str = "bfloat16",
    blocks: Sequence[int] = (),
    run: Mapping[str, Any] | None = None,
    vocabulary: Mapping[int, str] | None = None,
    lens: Lens | None = None,
    pictures: bool = False,
    image_from: int = 0,
    row_columns: Mapping[str, str] = NOTHING,
) -> Store:
    """Create a store that holds nothing yet; it appears at `path` whole or not at all.

    plan: one row for each sample (and condition): sample_id and the sample's own columns (label, prompt, ...);
    without a column `batch` it is cut into batches of 2,048. layers: residual points, ascending. blocks: those whose
    keys and values are kept, ascending. lens: the model's final norm and unembedding, for `actstore lens`.
    pictures: samples may have several, so that rows have a column picture, samples a column pictures (format 2).
    image_from: the residual point at which the model takes the image in, if not 0: rows of images are NaN below.
    row_columns: columns of your own that rows have, with their types: string, int64, float64, boolean (format 3).
    Raises ActstoreError if `path` exists or lies in a store, PlanError if a sample occurs twice.
    """
    said, plan, layers = path_of(path, "a store"), frame(plan, "plan"), numbers(layers, "layers")
    d_model, image_from = whole(d_model, "d_model"), whole(image_from, "image_from")
    blocks, run = numbers(blocks, "blocks", some=False), named(run, "run")
    vocabulary, row_columns = named(vocabulary, "vocabulary"), named(row_columns, "row_columns")
    pictures = truth(pictures, "pictures")
    target = said.absolute()
    check_capture(layers, d_model, dtype, run, blocks, image_from)
    form = PICTURED if pictures else FORMAT
    if problem := problem_of_rows(row_columns, form):
        raise ActstoreError(problem)
    check_own_columns([name for name in plan.columns if name not in PLAN_COLUMNS], form, row_columns)
    if not isinstance(lens, Lens | None):
        raise ActstoreError(f"lens is an actstore.format.lens.Lens, not {short(lens)}")
    if lens is not None and len(lens.weight) != d_model:
        raise ActstoreError(f"a lens for vectors of width {len(lens.weight)}, but d_model is {d_model}")
    words = {"token_id": list(vocabulary), "token": list(vocabulary.values())}
    try:
        tokens = pl.DataFrame(words, schema=VOCABULARY_COLUMNS).sort("token_id")
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        raise ActstoreError("a vocabulary has the text of each token by its number: {0: '<s>'}") from None
    tables = {PLAN: prepare(plan), VOCABULARY: tokens}
    check_free(said)
    draft = local.draft_of(target)
    try:
        local.make_folders(draft.parent)
        for folder in (PARTS, COMMITS, RESULTS):
            (draft / folder).mkdir(parents=True)
        for name, table in tables.items():
            write_table(draft / name, table)
        if lens is not None:
            lens.save(draft, dtype)
        made = Header(
            layers=tuple(layers),
            d_model=d_model,
            dtype=dtype,
            run=run,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files={name: File.of(draft / name) for name in (*tables, *(LENS_FILES if lens else ()))},
            blocks=tuple(blocks),
            lens=None if lens is None else lens.optics,
            image_from=image_from,
            pictures=pictures,
            rows=row_columns,
        )
        local.publish(draft / HEADER, made.dump())
        local.replace(target, draft)  # nothing or an empty folder; anything else fails: a racing creator loses
    except OSError as error:
        raise ActstoreError(f"{said}: the store cannot be created: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Store(said)


def check_free(path: Path) -> None:
    """Raise ActstoreError where no store can be made: something is there, or no folder can be written to."""
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ActstoreError(f"{path} exists already; open it, or choose another folder")
        if inside := around(path):
            raise ActstoreError(f"{path} is inside the store {inside}: choose a folder elsewhere")
        above = next(one for one in real(path).parents if one.exists())
        with TemporaryDirectory(prefix=".actstore-", dir=above):
            pass
    except OSError as error:
        raise ActstoreError(f"{path}: the store cannot be created: {error.strerror or error}") from error
