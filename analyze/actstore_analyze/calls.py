"""Measures in Python: the same options, usual values, saved results and errors as those of the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from actstore.commands.plugins import GROUP
from actstore.errors import ActstoreError, nearest
from actstore.format.given import names, path_of, place_of, short, text
from actstore.format.results import Result
from actstore.handing import how_to_install, joined
from actstore.sql.query import text_of
from actstore.store import Store
from actstore.store import open as open_store
from actstore_analyze.commands import say
from actstore_analyze.measured import Drawing, Measured
from actstore_analyze.registry import MEASURES, load
from actstore_analyze.report import page
from actstore_analyze.report.explore import show

__all__ = ["Measures", "explore", "figure", "measure", "measures", "write_report"]

OF_THE_COMMAND_LINE = {"columns", "figure", "style", "output", "estimate"}
INSTEAD = "what comes back has .table, .figure and .save(path)"


def measures() -> list[str]:
    """The names of all measures, each that of its command.

    >>> measures()[:3]
    ['attention', 'cka', 'cluster']
    """
    return sorted({place.partition(".")[0] for place, *_ in MEASURES.values()})


def measure(store: Store | Path | str, name: str, /, sql: str | None = None, **options: Any) -> Measured:
    """Ask a store for a measure; options are those of its command: roles=["eoi", "last"], layers=range(4), k=10.

    An option left out, or SQL, has the command's usual value; `-` in its name is `_`. What was asked before of the same
    contents is recalled, `force=True` computes it again. Lines that a reader must know of go to standard error.

    Raises ActstoreError for a measure or an option that does not exist, and as the command does.

    >>> measure("demo/fusion", "overlap", roles=["eoi"], k=10).table            # doctest: +SKIP
    """
    command, asked = _command(name), [] if sql is None else [text_of(sql)]
    where = store.place if isinstance(store, Store) else str(place_of(store, "a store"))
    found: list[Measured] = []
    try:
        context = command.make_context(name, [*_words(command, options), "--", where, *asked], obj=found.append)
        with context:
            command.invoke(context)
    except click.UsageError as error:
        raise ActstoreError(f"{name}: {error.format_message()}") from None
    except ModuleNotFoundError as error:
        if line := how_to_install(error):
            raise ActstoreError(f"{name} needs {line}") from None
        raise
    return replace(found[0], store=place_of(str(store), "a store"))


def figure(result: Result) -> Drawing:
    """The figure of a saved result, as its measure draws it; ActstoreError where its measure draws none."""
    if result.measure not in MEASURES:
        raise ActstoreError(f"{result.name}: nothing is drawn of {result.measure}; its table is .table()")
    found = load(result.measure)
    about = found.study.again(result.parameters).about
    title = result.path.parents[1].name
    return Drawing(found.draw(result.table(), title=title, **({} if about is None else {"about": about})))


def explore(
    store: Store | Path | str | Sequence[Store | Path | str],
    query: str = "from rows",
    roles: str | Sequence[str] = (),
    *,
    limit: int = 5_000,
) -> show.Explored:
    """The points of a store in the plane, as `store.explore` shows them in a notebook, or of several, two beside each
    other; `save` writes one .html.
    """
    return show.explore([_opened(one) for one in _each(store)], query, roles, limit=limit)


def write_report(
    stores: Store | Path | str | Sequence[Store | Path | str],
    path: Path | str,
    *,
    reference: str | None = None,
    only: str | Sequence[str] = (),
    title: str | None = None,
) -> Path:
    """Write one page about a store, or several, as `actstore report` does; returns its path.

    only: measures, or saved results by their names; everything without any. title: in place of the models' names.
    """
    each, where = _each(stores), path_of(path, "a page")
    asked = {name: text(one, name) for name, one in {"reference": reference, "title": title}.items() if one is not None}
    page.write([_opened(one) for one in each], where, only=names(only, "only"), say=say, **asked)
    return where


class Measures:
    """The measures of one store: `store.measure.overlap(k=10)` is `measure(store, "overlap", k=10)`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __call__(self, name: str, /, sql: str | None = None, **options: Any) -> Measured:
        """The measure of that name."""
        return measure(self._store, name, sql=sql, **options)

    def __getattr__(self, name: str) -> Any:
        if name not in measures():
            raise AttributeError(_unknown(name))

        def ask(sql: str | None = None, **options: Any) -> Measured:
            return measure(self._store, name, sql, **options)

        ask.__name__, ask.__doc__ = name, _command(name).help
        return ask

    def __dir__(self) -> list[str]:
        return measures()


def _each(stores: Store | Path | str | Sequence[Store | Path | str]) -> Sequence[Store | Path | str]:
    if isinstance(stores, Store | Path | str):
        return [stores]
    if not isinstance(stores, Sequence) or not stores:
        raise ActstoreError(f"a page is about one store or a list of some, not {short(stores)}")
    return stores


def _opened(store: Store | Path | str) -> Store:
    return store if isinstance(store, Store) else open_store(store)


def _unknown(name: str) -> str:
    return f"no measure '{name}'" + nearest(name, measures(), f"there are {', '.join(measures())}")


def _command(name: str) -> click.Command:
    if text(name, "a measure's name") not in measures():
        raise ActstoreError(_unknown(name))
    command = joined(GROUP, name)
    assert isinstance(command, click.Command)
    return command


def _words(command: click.Command, options: Mapping[str, Any]) -> list[str]:
    """Options as the command line has them."""
    known = {one.name: one for one in command.params if isinstance(one, click.Option) and one.name}
    words: list[str] = []
    for name, value in options.items():
        if name in OF_THE_COMMAND_LINE:
            raise ActstoreError(f"{command.name}: {name} is of the command line alone: {INSTEAD}")
        if name not in known:
            names = sorted(known.keys() - OF_THE_COMMAND_LINE)
            hint = nearest(name, names, f"there are sql, {', '.join(names)}")
            raise ActstoreError(f"{command.name} has no option '{name}'{hint}")
        option, flag = known[name], max(known[name].opts, key=len)
        if option.is_flag:
            if not isinstance(value, bool):
                raise ActstoreError(f"{command.name}: {name} is True or False, not {value!r}")
            words += [flag] if value else []
        elif option.multiple and isinstance(value, list | tuple):
            words += [word for one in value for word in (flag, _word(name, one))]
        elif value is not None:
            words += [flag, _word(name, value)]
    return words


def _word(name: str, value: object) -> str:
    """A value as a word; those of a sequence with commas between them."""
    if isinstance(value, Store):
        return value.place
    if isinstance(value, bool | np.bool_ | pl.DataFrame | Mapping):
        raise ActstoreError(f"{name} = {value!r}: a number, a name or a list of these is wanted")
    if isinstance(value, str | Path | int | float | np.integer | np.floating):
        return str(value)
    if isinstance(value, Sequence | pl.Series | set):
        return ",".join(_word(name, one) for one in value)
    if hasattr(value, "tolist") and getattr(value, "ndim", 1) <= 1:  # of numpy, pandas, torch
        return _word(name, value.tolist())
    raise ActstoreError(f"{name} = {value!r}: a number, a name or a list of these is wanted")
