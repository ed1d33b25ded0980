"""Results: the tables that measures produced, kept in the store with how they were made."""

import hashlib
import json
import re
import stat
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from actstore import durable
from actstore.errors import ActstoreError, CorruptError, DamagedWarning
from actstore.format import RESULTS
from actstore.tables import MEANINGLESS, read_table

MEASURE_NAME = re.compile(r"[a-z][a-z0-9_]*")
NAME = re.compile(rf"(?P<call>{MEASURE_NAME.pattern}-[0-9a-f]{{8}})-(?P<crc32c>[0-9a-f]{{8}})\.parquet")
PROVENANCE = b"actstore"


@dataclass(frozen=True)
class Result:
    """One saved table: the measure, its parameters, and the state of the store it was computed from."""

    path: Path
    measure: str
    parameters: dict[str, Any]
    state: str
    created: str
    versions: dict[str, str]

    @property
    def name(self) -> str:
        """The name of the result's SQL view: the measure and a hash of the call."""
        return self.path.stem.rpartition("-")[0].replace("-", "_")

    def table(self) -> pl.DataFrame:
        """The result itself."""
        return read_table(self.path)


def save(store: Path, measure: str, table: pl.DataFrame, parameters: dict[str, Any], state: str) -> Result:
    """Write a result table, whole or not at all, in place of the result of the same call.

    Raises ActstoreError where the store cannot be written.
    """
    if not MEASURE_NAME.fullmatch(measure):
        raise ActstoreError(f"measure '{measure}': use lower-case letters, digits and underscores")
    provenance = {
        "measure": measure,
        "parameters": parameters,
        "state": state,
        "created": datetime.now(UTC).isoformat(),
        "versions": _versions(),
    }
    arrow = table.to_arrow().replace_schema_metadata({PROVENANCE: json.dumps(provenance)})
    call = _call(measure, parameters, state)
    draft = durable.draft_of(store / RESULTS / f"{call}.parquet")
    try:
        durable.make_folders(draft.parent)
        pq.write_table(arrow, draft, compression="zstd", write_page_checksum=True)
        path = store / RESULTS / f"{call}-{durable.crc32c(draft)}.parquet"
        durable.replace(path, draft)
        (newest, *older), damaged = _each_of_call(store, call)
        for other in [*(result.path for result in older), *damaged]:
            other.unlink(missing_ok=True)
    except OSError as error:
        raise ActstoreError(f"{store}: the result could not be saved: {error.strerror or error}") from error
    finally:
        durable.discard(draft)
    return newest


def saved(store: Path, measure: str, parameters: dict[str, Any], state: str) -> Result | None:
    """The result of this very call on these very contents, if it was saved."""
    return next(iter(_of_call(store, _call(measure, parameters, state))), None)


def load(path: Path) -> Result:
    """The result at `path`; raises CorruptError if its bytes are not those its name promises, or it is none."""
    match = NAME.fullmatch(path.name)
    if not stat.S_ISREG(path.lstat().st_mode):
        raise CorruptError(f"{path}: not a plain file; a store holds no links")
    try:
        if not match or durable.crc32c(path) != match["crc32c"]:
            raise CorruptError(f"{path}: its bytes differ from what was saved (crc32c); remove it")
        return Result(path=path, **json.loads(pq.read_schema(path).metadata[PROVENANCE]))
    except (*MEANINGLESS, KeyError, RecursionError) as error:
        raise CorruptError(f"{path}: not a result of actstore ({error}); remove it") from None


def load_all(store: Path) -> list[Result]:
    """Every saved result, by name, of one call the newest; warns of those that are damaged, and leaves them out."""
    named = [NAME.fullmatch(path.name) for path in (store / RESULTS).glob("*.parquet")]
    calls = sorted({name["call"] for name in named if name})
    return [results[0] for call in calls if (results := _of_call(store, call))]


def _call(measure: str, parameters: dict[str, Any], state: str) -> str:
    """The name of a call: the same call on the same commits has the same name."""
    call = json.dumps([measure, parameters, state], sort_keys=True)
    return f"{measure}-{hashlib.sha256(call.encode()).hexdigest()[:8]}"


def _of_call(store: Path, call: str) -> list[Result]:
    """Results of one call, newest first; one that is damaged is warned of and left out.

    No table that can be made again keeps the store from being read.
    """
    found, damaged = _each_of_call(store, call)
    for error in damaged.values():
        warnings.warn(f"left out: {error}", DamagedWarning, stacklevel=2)
    return found


def _each_of_call(store: Path, call: str) -> tuple[list[Result], dict[Path, CorruptError]]:
    """Results of one call, newest first, and what is wrong with others: two programs may have saved it at once."""
    found, damaged = [], {}
    for path in (store / RESULTS).glob(f"{call}-*.parquet"):
        try:
            found += [load(path)] if NAME.fullmatch(path.name) else []
        except FileNotFoundError:  # the other program has replaced it since
            continue
        except CorruptError as error:
            damaged[path] = error
    return sorted(found, key=lambda result: (result.created, result.path.name), reverse=True), damaged


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("actstore", "numpy", "polars", "duckdb", "zarr")}
