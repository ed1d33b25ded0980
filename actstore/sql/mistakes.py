"""Mistakes in a query: what DuckDB says of them, in the words of a store and with what to do."""

import re

import duckdb

from actstore.errors import nearest
from actstore.sql.views import literal

__all__ = ["FORBIDDEN", "explained"]

COLUMNS = "select distinct column_name from duckdb_columns() where not internal and table_name in "
NAMED = "select table_name from information_schema.tables"
NO_COLUMN = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')
PYTHON_ERROR = re.compile(r"^.*while executing the UDF: \w+: ", re.DOTALL)
NO_TABLE = re.compile(r"Table with name (\S+) does not exist")
FORBIDDEN = re.compile(r"disabled by configuration|configuration has been locked|disabled through configuration")
NO_VALUE = re.compile(r"Values were not provided for the following parameters: (.+)")
NO_PLACE = re.compile(r"identifiers of the excess parameters: (.+)|mismatch for prepared statement. (Expected 0)")
MIXED = "Mixing named and positional parameters"
UNTYPED = re.compile(r"function call .*STRING_LITERAL|No function matches .*STRING_LITERAL")


def explained(connection: duckdb.DuckDBPyConnection, message: str, query: str) -> str:
    """DuckDB's message, with the nearest column of the query's views, or the nearest view, named."""
    message = PYTHON_ERROR.sub("", message)
    if missing := NO_COLUMN.search(message):
        name = missing[1] or missing[2]
        return f"no column '{name}'{nearest(name, _columns(connection, query))}\n{message}"
    if missing := NO_TABLE.search(message):
        views = [name for name in _names(connection, NAMED) if not name.startswith("stored_")]
        name, known = missing[1], f"there are {', '.join(views)}"
        own = f"a table of your own: tables={{'{name}': frame}} in Python, actstore query --table {name}=FILE"
        return f"no view '{name}'{nearest(name, views, known)}; {own}"
    if FORBIDDEN.search(message):
        return f"SQL on a store reads its views; it has no files, network, extensions or settings\n{message}"
    if MIXED in message:
        return "a query has either ? or $name: give values in a list for ?, by name for $name: {'name': value}"
    if missing := NO_VALUE.search(message):
        return _without_value(missing[1].split(", "))
    if missing := NO_PLACE.search(message):
        names = [] if missing[2] or missing[1][0].isdigit() else missing[1].split(", ")
        return f"the query has no {', '.join(f'${name}' for name in names)}" if names else MORE
    if UNTYPED.search(message):
        return f"{CAST}\n{message}"
    return message


MORE = "more values are given than the query has parameters; each stands for one ? or $name"
CAST = "text, as a value of -p is, is no number to reckon with: say its type where it stands, such as $x::int"


def _without_value(names: list[str]) -> str:
    if names[0].isdigit():
        return f"parameter {', '.join(names)} has no value: give a list, of as many values as the query has ?"
    name = names[0]
    return f"${', $'.join(names)} has no value: give it, {{'{name}': value}} in Python, -p {name} VALUE of query"


def _columns(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """The columns of the views whose names are among the words of a query."""
    words = ", ".join(map(literal, re.findall(r"\w+", query.lower())))
    return _names(connection, f"{COLUMNS} ({words})")


def _names(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    return sorted(str(name) for (name,) in connection.cursor().sql(query).fetchall())
