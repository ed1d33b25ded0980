"""The index: the tables of a store copied into one DuckDB file, for any DuckDB client and for stores of many parts."""

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from actstore.errors import ActstoreError
from actstore.format import checkpoint
from actstore.format.names import INDEX, PLAN, VOCABULARY
from actstore.sql import views
from actstore.storage import cache, local

if TYPE_CHECKING:
    from actstore.store import Store

STORAGE_VERSION = "v1.2.0"  # read by every DuckDB since 1.2; the default of DuckDB 2 is not


def build(store: "Store", path: Path) -> Path:
    """Write the tables and views of `store` into a DuckDB file at `path`, replacing one that is there."""
    draft = local.draft_of(path)
    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute(
                f"attach {views.literal(draft)} as built (storage_version {views.literal(STORAGE_VERSION)})"
            )
            connection.execute("use built")
            views.create_tables(
                connection,
                [part.rows_path for part in store.parts],
                [part.samples_path for part in store.parts],
                store.checked(PLAN),
                "table",
            )
            connection.execute(views.VIEWS)
            connection.execute(f"create table vocab as from {views.literal(store.checked(VOCABULARY))}")
            connection.execute("use memory; detach built")
        local.replace(path, draft)
    except (OSError, duckdb.Error) as error:
        raise ActstoreError(f"{path}: the index could not be written ({error}); the store itself is whole") from error
    finally:
        local.discard(draft)
    return path


def build_in_store(store: "Store") -> Path:
    """Write index.duckdb beside the parts, and the checkpoint of a store of many."""
    checkpoint.write(store.path, store.header)
    return build(store, store.path / INDEX)


def cached(store: "Store") -> Path | None:
    """The index of exactly these commits in the user's own cache folder, built when it is not there.

    None where that folder cannot be written. A `.duckdb` file that came with a store is never opened: a view in it
    could read any file.
    """
    path, name = _cached_path(store), cache.name_of(store.path)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            build(store, path)
        except (OSError, ActstoreError):
            return None
        for older in path.parent.glob(f"{name}-*.duckdb"):
            if older != path:
                older.unlink(missing_ok=True)
    return path


def discard(store: "Store") -> bool:
    """Remove the index of these commits from the cache folder; returns whether there was one."""
    try:
        _cached_path(store).unlink()
    except OSError:
        return False
    return True


def _cached_path(store: "Store") -> Path:
    return cache.folder() / f"{cache.name_of(store.path)}-{store.state}.duckdb"
