"""The index: the tables of a store copied into one DuckDB file, for any DuckDB client and for stores of many parts."""

from pathlib import Path

import duckdb

from actstore.errors import ActstoreError
from actstore.sql import views
from actstore.sql.tables import Tables
from actstore.storage import cache, links, local

STORAGE_VERSION = "v1.2.0"  # read by every DuckDB since 1.2; the default of DuckDB 2 is not


def build(tables: Tables, path: Path) -> Path:
    """Write the tables and views of a store into a DuckDB file at `path`, replacing one that is there.

    Raises ActstoreError where it cannot be written, which it cannot below a folder with a `?` in its name either.
    """
    if "?" in str(links.real(path)):  # whatever the link to it: DuckDB cuts the name of its log there
        raise ActstoreError(f"{path}: DuckDB writes no index below a folder with a ? in its name; rename the folder")
    draft = local.draft_of(path)
    attached, version = views.file(draft), views.literal(STORAGE_VERSION)
    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute(f"attach {attached} as built (storage_version {version})")
            connection.execute("use built")
            views.create_tables(connection, tables, "table")
            views.create_views(connection, tables.format)
            connection.execute(f"comment on table plan is {views.literal(tables.state)}")
            connection.execute(f"create table vocab as {views.parquet(connection, [tables.vocabulary()])}")
            connection.execute("use memory; detach built")
        local.replace(path, draft)
    except (OSError, duckdb.Error) as error:
        raise ActstoreError(f"{path}: the index could not be written ({error}); the store itself is whole") from error
    finally:
        local.discard(draft)
        local.discard(draft.with_name(f"{draft.name}.wal"))  # DuckDB's log, where it was not done
    return path


def cached(tables: Tables) -> Path | None:
    """The index of exactly these contents in the user's own cache folder, built when it is not there.

    None where that folder cannot be written. A `.duckdb` file that came with a store is never opened: a view in it
    could read any file. One of other contents under this name is made anew.
    """
    try:
        path = _path(tables)
        if not (path.exists() and _holds(path, tables.state)):
            path.parent.mkdir(parents=True, exist_ok=True)
            cache.clear()
            build(tables, path)
            for older in path.parent.glob(f"{cache.name_of(tables.store)}-*.duckdb"):
                if older != path:
                    older.unlink(missing_ok=True)
    except (OSError, ActstoreError):
        return None
    return path


def _holds(path: Path, state: str) -> bool:
    """Whether an index is of contents in this state."""
    said = "select comment from duckdb_tables() where database_name = 'indexed' and table_name = 'plan'"
    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute(f"attach {views.file(path)} as indexed (read_only)")
            return connection.execute(said).fetchone() == (state,)
    except duckdb.Error:
        return False


def discard(tables: Tables) -> bool:
    """Remove the index of these contents from the cache folder; returns whether there was one."""
    try:
        _path(tables).unlink()
    except OSError:
        return False
    return True


def _path(tables: Tables) -> Path:
    return cache.folder() / f"{cache.name_of(tables.store)}-{tables.state}.duckdb"
