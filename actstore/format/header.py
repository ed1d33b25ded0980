"""The header of a store: what it captures and who produced it; written at creation, never edited."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from actstore.errors import ActstoreError, CorruptError, NotAStoreError, nearest
from actstore.format import records, tables
from actstore.format.commits import Commit, File
from actstore.format.given import whole
from actstore.format.layout import VECTORS
from actstore.format.lens import FOLDER as LENS
from actstore.format.lens import Numbers, Optics
from actstore.format.names import (
    COMMITS,
    DTYPES,
    FORMAT,
    HEADER,
    OWNED,
    PARTS,
    PICTURED,
    PLAN,
    RESULTS,
    VOCABULARY,
    WIDEST,
    dtype_named,
)
from actstore.format.schema import OWN_TYPES, check_own_columns
from actstore.format.schema import PLAN as PLAN_COLUMNS
from actstore.format.schema import VOCABULARY as VOCABULARY_COLUMNS
from actstore.storage.links import real

SQL = re.compile(r"\s*(from|select|with)\s", re.IGNORECASE)


class _Capture(msgspec.Struct, frozen=True):
    layers: tuple[int, ...]
    d_model: int
    dtype: str
    blocks: tuple[int, ...] = ()
    image_from: int = 0
    pictures: bool = False
    rows: dict[str, str] = {}


class _Record(msgspec.Struct, frozen=True):
    """The header as its file has it."""

    created: str
    capture: _Capture
    run: dict[str, Any]
    files: dict[str, File]
    crc32c: str
    lens: Numbers | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Header:
    """Layers (residual points, ascending), width and number type of the vectors, run card, checksums of two tables.

    blocks: those whose keys and values are kept, ascending; none in most stores. lens: of a store that has one.
    image_from: the residual point at which the model takes the image in; below it rows of images hold nothing, NaN.
    pictures: samples may have several. rows: columns of a user's own that rows have, with their types.
    crc32c is that of the file: every commit names it, so that a part of another store cannot pass for one of this.
    """

    layers: tuple[int, ...]
    d_model: int
    dtype: str
    run: dict[str, Any]
    created: str
    files: dict[str, File]
    blocks: tuple[int, ...] = ()
    lens: Optics | None = None
    crc32c: str = ""
    image_from: int = 0
    pictures: bool = False
    rows: Mapping[str, str] = field(default_factory=dict)

    @property
    def format(self) -> int:
        """3 where rows have columns of a user's own, 2 where samples may have several pictures, else 1."""
        return OWNED if self.rows else self.form

    @property
    def form(self) -> int:
        """The format whose columns the tables have."""
        return PICTURED if self.pictures else FORMAT

    @classmethod
    def load(cls, store: Path) -> "Header":
        """The header of the store in a folder; raises NotAStoreError, FormatError or CorruptError."""
        path = store / HEADER
        try:
            record = records.load(path, OWNED)
        except (FileNotFoundError, NotADirectoryError):
            raise NotAStoreError(f"{store} is not a store: it has no {HEADER}{_meant(store)}") from None
        except PermissionError as error:
            raise ActstoreError(f"{path}: {error.strerror}") from None
        if linked := [name for name in (PARTS, COMMITS, RESULTS, LENS) if (store / name).is_symlink()]:
            raise CorruptError(f"{store / linked[0]}: not a plain folder; a store holds no links")
        try:
            parsed = msgspec.convert(record, _Record)
            header = cls(
                layers=parsed.capture.layers,
                d_model=parsed.capture.d_model,
                dtype=parsed.capture.dtype,
                run=parsed.run,
                created=parsed.created,
                files=parsed.files,
                blocks=parsed.capture.blocks,
                lens=Optics.of(parsed.lens) if isinstance(parsed.lens, Numbers) else None,
                crc32c=parsed.crc32c,
                image_from=parsed.capture.image_from,
                pictures=record["format"] == PICTURED or parsed.capture.pictures,
                rows=parsed.capture.rows,
            )
        except (ValueError, RecursionError, ActstoreError) as error:
            raise CorruptError(f"{path}: not a header of format 1, 2 or 3 ({error})") from None
        ascending = bool(header.layers) and list(header.layers) == sorted(set(header.layers))
        if (
            not ascending
            or not 1 <= header.d_model <= WIDEST
            or header.dtype not in DTYPES
            or list(header.blocks) != sorted(set(header.blocks))
            or min(header.blocks, default=0) < 0
            or header.image_from < 0
            or header.format != record["format"]
            or not header.lists_its_files()
            or problem_of_rows(header.rows, header.form)
        ):
            raise CorruptError(f"{path}: not a header of format 1, 2 or 3")
        if problem := _problem_of_names(header.run):
            raise CorruptError(f"{path}: {problem}")
        return header

    @property
    def pulled(self) -> dict[str, Any]:
        """What of a store at a URL this holds, of one that `actstore pull --roles --layers` wrote; else nothing."""
        found = self.run.get("pulled")
        return found if isinstance(found, dict) else {}

    def check_whole(self, store: Path | str) -> None:
        """Raise ActstoreError for some roles and layers of another store: a model that runs for it computes all."""
        if self.pulled:
            raise ActstoreError(
                f"{store} holds some roles or layers of {self.pulled.get('from')}, and is not gone on with; pull all "
                "of that into another folder"
            )

    def dump(self) -> bytes:
        """The header as the bytes of its file."""
        blocks = {"blocks": list(self.blocks)} if self.blocks else {}
        later = {"image_from": self.image_from} if self.image_from else {}
        own = {**({"pictures": True} if self.pictures else {}), "rows": dict(self.rows)} if self.rows else {}
        capture = {"layers": list(self.layers), "d_model": self.d_model, "dtype": self.dtype, **blocks, **later, **own}
        return records.dump(
            {
                "format": self.format,
                "created": self.created,
                "capture": capture,
                "run": self.run,
                **({} if self.lens is None else {"lens": self.lens.record()}),
                "files": {name: [file.size, file.crc32c] for name, file in self.files.items()},
            }
        )

    def lists_its_files(self) -> bool:
        """Whether `files` has the two tables and those of the lens, if there is one, in their sizes, and no other."""
        sizes = {} if self.lens is None else self.lens.sizes(self.d_model, self.dtype)
        fit = all(name in self.files and self.files[name].size == size for name, size in sizes.items())
        return fit and self.files.keys() == {PLAN, VOCABULARY, *sizes}

    def checked(self, store: Path, name: str) -> Path:
        """The path of a file that is listed, after its bytes were compared with its checksum, and the columns of a
        table with those of format 1.
        """
        if name not in self.files:
            raise ActstoreError(f"{store}: its header lists no file {name!r}, only {', '.join(self.files)}")
        path = store / name
        self.files[name].check(path, whole=True, remedy="restore it from a copy")
        if name == PLAN:
            tables.check_columns(path, PLAN_COLUMNS, own=True, form=self.form, others=self.rows)
        elif name == VOCABULARY:
            tables.check_columns(path, VOCABULARY_COLUMNS)
        return path

    def check_fits(self, commit: Commit) -> None:
        """Raise CorruptError if the arrays of a commit do not have this store's layers, width and number type."""
        for name, spec in commit.arrays.items():
            kind = name.partition("/")[0]
            n_first = len(self.layers if kind in ("residual", "attention") else self.blocks)
            width = self.d_model if kind == "residual" else min(spec.shape[-1], WIDEST)
            if spec.shape[0] != n_first or (kind in VECTORS and (spec.shape[-1], spec.dtype) != (width, self.dtype)):
                raise CorruptError(f"{commit.name}: array {name} has not the layers, width or dtype of {HEADER}")

    def layer_index(self, layer: int) -> int:
        """Where a layer lies in the arrays; -1 is the last that is stored. ActstoreError if it was not captured."""
        return _index(self.layers, whole(layer, "a layer"), f"layer {layer} is not in this store; it has {{}}")

    def layer_of(self, layer: int) -> int:
        """The residual point that a number means: -1 is the last that is stored."""
        return self.layers[self.layer_index(layer)]

    def block_of(self, block: int) -> int:
        """The block that a number means: -1 is the last whose keys and values are kept."""
        return self.blocks[self.block_index(block)]

    def block_index(self, block: int) -> int:
        """Where a block lies in the keys and values, as `layer_index`; ActstoreError if those of it are not kept."""
        lost = f"keys and values of block {block} are not in this store; it has {{}}"
        return _index(self.blocks, whole(block, "a block"), lost, "those of blocks ")


def _index(kept: Sequence[int], number: int, lost: str, of: str = "") -> int:
    """Where a number is among those kept; negative ones count from the last."""
    if number in kept:
        return kept.index(number)
    if -len(kept) <= number < 0:
        return len(kept) + number
    raise ActstoreError(lost.format(f"{of}{span(kept)}" if kept else "none"))


def check_capture(
    layers: Sequence[int],
    d_model: int,
    dtype: str,
    run: Mapping[str, Any],
    blocks: Sequence[int] = (),
    image_from: int = 0,
) -> None:
    """Raise ActstoreError unless layers and blocks are ascending, dtype is one of format 1 and run is JSON."""
    if not layers or list(layers) != sorted(set(layers)) or layers[0] < 0:
        raise ActstoreError(f"layers {list(layers)} are not ascending residual points 0..L")
    if list(blocks) != sorted(set(blocks)) or min(blocks, default=0) < 0:
        raise ActstoreError(f"blocks {list(blocks)} are not ascending blocks 0..L-1")
    if image_from < 0:
        raise ActstoreError(f"image_from {image_from} is not a residual point 0..L")
    if not 1 <= d_model <= WIDEST:
        raise ActstoreError(f"d_model {d_model} is not a width between 1 and {WIDEST}")
    dtype_named(dtype)
    try:
        records.dump(dict(run))
    except (TypeError, ValueError) as error:
        raise ActstoreError(f"the run card is not JSON: {error}") from None
    if problem := _problem_of_names(run):
        raise ActstoreError(problem)


def problem_of_rows(rows: Mapping[str, str], form: int) -> str | None:
    """Why these cannot be columns of a user's own, with their types, in rows of a store of this format, or None.

    >>> problem_of_rows({"word": "text"}, 1)
    "column 'word' of rows: type 'text' is not one of boolean, float64, int64, string"
    """
    try:
        check_own_columns(rows, form, table="rows")
    except ActstoreError as error:
        return str(error)
    odd = next((name for name, kind in rows.items() if kind not in OWN_TYPES), None)
    return odd and f"column '{odd}' of rows: type '{rows[odd]}' is not one of {', '.join(OWN_TYPES)}"


def _problem_of_names(run: Mapping[str, Any]) -> str | None:
    """Why the members of a run card cannot be the columns of a view, or None; SQL does not tell `Model` from `model`.

    >>> _problem_of_names({"model": "tiny", "Model": "large"})
    "the run card names 'Model' twice: capital letters make no difference"
    """
    seen = set()
    for name in run:
        if not name or "\0" in name:
            return f"the run card has a member called {name!r}"
        if name.lower() in seen:
            return f"the run card names {name!r} twice: capital letters make no difference"
        seen.add(name.lower())
    return None


def span(layers: Sequence[int]) -> str:
    """Layers in words.

    >>> span((0, 1, 2, 3)), span((0, 8))
    ('0..3', '0, 8')
    """
    contiguous = list(layers) == list(range(layers[0], layers[-1] + 1)) and len(layers) > 2
    return f"{layers[0]}..{layers[-1]}" if contiguous else ", ".join(map(str, layers))


def around(path: Path) -> Path | None:
    """The store that a path lies in, if it lies in one."""
    return next((folder for folder in real(path).parents if (folder / HEADER).exists()), None)


def _meant(path: Path) -> str:
    """What may have been meant by the path of no store: the store around it, those in it, one of nearly that name."""
    if SQL.match(str(path)):
        return "; the store comes first, then the SQL"
    with suppress(OSError):
        if inside := around(path):
            return f"; it lies in the store {inside}"
        if path.is_file():
            return "; a store is a folder"
        if path.is_dir():
            found = _stores(path)
            return f"; there are stores in it: {', '.join(map(str, found[:3]))}" if found else ""
        return nearest(str(path), [*map(str, _stores(path.parent))])
    return ""


def _stores(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if (one / HEADER).is_file())
