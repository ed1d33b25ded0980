"""Results: the tables that measures produced, kept in the store with how they were made."""

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from actstore import durable
from actstore.errors import ActstoreError
from actstore.tables import read_table

RESULTS = "results"
NAME = re.compile(r"[a-z][a-z0-9_]*-[0-9a-f]{8}")
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
        """The name of the result's SQL view."""
        return self.path.stem.replace("-", "_")

    def table(self) -> pl.DataFrame:
        """The result itself."""
        return read_table(self.path)


def path_of(store: Path, measure: str, parameters: dict[str, Any], state: str) -> Path:
    """Where the result of this very call is kept: the same call on the same commits has the same name."""
    call = json.dumps([measure, parameters, state], sort_keys=True)
    return store / RESULTS / f"{measure}-{hashlib.sha256(call.encode()).hexdigest()[:8]}.parquet"


def save(path: Path, table: pl.DataFrame, measure: str, parameters: dict[str, Any], state: str) -> Result:
    """Write a result table, whole or not at all; raises ActstoreError where the store cannot be written."""
    provenance = {
        "measure": measure,
        "parameters": parameters,
        "state": state,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    draft = path.with_name(f".{path.name}")
    arrow = table.to_arrow()
    try:
        path.parent.mkdir(exist_ok=True)
        pq.write_table(
            arrow.replace_schema_metadata({PROVENANCE: json.dumps(provenance)}),
            draft,
            compression="zstd",
            write_page_checksum=True,
        )
        durable.replace(path, draft)
    except OSError as error:
        raise ActstoreError(f"{path}: the result could not be saved: {error.strerror or error}") from error
    return load(path)


def load(path: Path) -> Result:
    """The result at `path`; raises ActstoreError if it is none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return Result(path=path, **json.loads(metadata[PROVENANCE]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ActstoreError(f"{path}: not a result of actstore ({error}); remove it") from None


def load_all(store: Path) -> list[Result]:
    """Every saved result, by name."""
    folder = store / RESULTS
    names = sorted(path.name for path in folder.glob("*.parquet")) if folder.is_dir() else []
    return [load(folder / name) for name in names if NAME.fullmatch(name.removesuffix(".parquet"))]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("actstore", "numpy", "polars", "duckdb", "zarr")}
