"""Results: the tables that measures produced, kept in the store with how they were made."""

import contextlib
import hashlib
import json
import re
import stat
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import cache
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from actstore.errors import ActstoreError, CorruptError, DamagedWarning, nearest, refused, visible
from actstore.format.given import short
from actstore.format.names import RESULTS
from actstore.format.tables import MEANINGLESS, arrow_of, read_table, write_arrow
from actstore.handing import joined
from actstore.storage import local

MEASURE_NAME = re.compile(r"[a-z][a-z0-9_]*")
NAME = re.compile(rf"(?P<call>{MEASURE_NAME.pattern}-[0-9a-f]{{8}})-(?P<crc32c>[0-9a-f]{{8}})\.parquet")
PROVENANCE = b"actstore"
CPU = "cpu"
TRIES = 100  # to see a result that others save again and again
LIBRARIES = (
    *("actstore", "numpy", "polars", "duckdb", "zarr"),
    *("faiss-cpu", "hdbscan", "sae-lens", "scikit-learn", "scipy", "torch", "transformers"),
)


@dataclass(frozen=True)
class Result:
    """One saved table: the measure, its parameters, and the state of the store it was computed from.

    commits: the names of the records of that state, as `runs` has them; None for a result saved before they were kept.
    device: where it was computed: `cpu`, or a GPU, `cuda (NVIDIA H200)`.
    """

    path: Path
    measure: str
    parameters: dict[str, Any]
    state: str
    created: str
    versions: dict[str, str]
    commits: list[str] | None = None
    device: str = CPU

    @property
    def sql(self) -> str | None:
        """The query that chose the rows or samples; None where the measure takes none."""
        found = self.parameters.get("sql")
        return found if isinstance(found, str) else None

    @property
    def name(self) -> str:
        """The name of the result's SQL view: the measure and a hash of the call."""
        return self.path.stem.rpartition("-")[0].replace("-", "_")

    @property
    def asked(self) -> str:
        """The parameters in a line, without those that say nothing, and the device unless it is a CPU."""
        asked = self.parameters | ({} if self.device == CPU else {"device": self.device})
        said = {name: value for name, value in asked.items() if value not in (None, False, [])}
        return ", ".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in said.items())

    @property
    def figure(self) -> Any:
        """The figure of its measure, which a notebook shows; ActstoreError where there is none."""
        return joined("actstore.store", "figure")(self)

    def __repr__(self) -> str:
        return f"<Result {self.name} ({self.created}): {self.asked}; .table(), .figure>"

    def _repr_html_(self) -> str:
        try:
            drawn = self.figure.svg
        except ActstoreError:
            drawn = self.table()._repr_html_()
        return f"{Results([self])._repr_html_()}{drawn}"

    def table(self) -> pl.DataFrame:
        """The result itself; of one that was saved anew since it was found, what took its place."""
        try:
            return read_table(self.path)
        except CorruptError:
            newer = saved(self.path.parents[1], self.measure, self.parameters, self.state)
            if newer is None or newer.path == self.path or self.path.exists():
                raise
            return newer.table()


class Results(list[Result]):
    """Saved results, which a notebook shows as a table: name, measure, parameters, and when."""

    def _repr_html_(self) -> str:
        lines = [("name", "measure", "parameters", "created")]
        lines += [(one.name, one.measure, one.asked, one.created) for one in self]
        rows = ("".join(f"<td>{escape(visible(text))}</td>" for text in line) for line in lines)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def save(
    store: Path,
    measure: str,
    table: pl.DataFrame,
    parameters: dict[str, Any],
    state: str,
    commits: Sequence[str],
    device: str = CPU,
) -> Result:
    """Write a result table, whole or not at all, in place of the result of the same call.

    commits: the names of the records that the state is of.
    Raises ActstoreError where the store cannot be written.
    """
    if not isinstance(measure, str) or not MEASURE_NAME.fullmatch(measure):
        raise ActstoreError(f"measure '{measure}': use lower-case letters, digits and underscores")
    call = _call(measure, parameters, state)
    before, damaged = _each_of_call(store, call)
    provenance = {
        "measure": measure,
        "parameters": parameters,
        "state": state,
        "created": _after(before).isoformat(),
        "versions": _versions(),
        "commits": runs(commits),
        **({} if device == CPU else {"device": device}),
    }
    arrow = arrow_of(table).replace_schema_metadata({PROVENANCE: json.dumps(provenance)})
    draft = local.draft_of(store / RESULTS / f"{call}.parquet")
    try:
        local.make_folders(draft.parent)
        write_arrow(draft, arrow)
        path = store / RESULTS / f"{call}-{local.crc32c(draft)}.parquet"
        local.replace(path, draft)
        for other in {*(result.path for result in before), *damaged} - {path}:  # not what another program saves now
            other.unlink(missing_ok=True)
        return load(path)
    except OSError as error:
        raise ActstoreError(f"{store}: the result could not be saved: {error.strerror or error}") from error
    finally:
        local.discard(draft)


def _after(found: Sequence[Result]) -> datetime:
    """Now, or later than all of these were created: a clock may have been set back since."""
    now = datetime.now(UTC)
    for one in found:
        with contextlib.suppress(ValueError, TypeError, OverflowError):  # no time, or one without a zone
            now = max(now, datetime.fromisoformat(one.created) + timedelta(microseconds=1))
    return now


def saved(store: Path, measure: str, parameters: dict[str, Any], state: str) -> Result | None:
    """The result of this very call on these very contents, if it was saved."""
    found = _of_call(store, _call(measure, parameters, state))
    asked = json.loads(json.dumps([measure, parameters, state]))
    # the name holds 32 bits of a hash: another call may have the same
    return next((one for one in found if [one.measure, one.parameters, one.state] == asked), None)


def load(path: Path) -> Result:
    """The result at `path`; raises CorruptError if its bytes or its call are not those of its name, or it is none.

    Raises FileNotFoundError where it is gone, as one is that was saved anew.
    """
    match = NAME.fullmatch(path.name)
    if not stat.S_ISREG(path.lstat().st_mode):
        raise CorruptError(f"{path}: not a plain file; a store holds no links")
    try:
        if not match or local.crc32c(path) != match["crc32c"]:
            raise CorruptError(f"{path}: its bytes differ from what was saved (crc32c); remove it")
        with local.plain(path) as file:
            result = _parse(path, json.loads(pq.read_schema(file).metadata[PROVENANCE]))
        if _call(result.measure, result.parameters, result.state) != match["call"]:
            raise CorruptError(f"{path}: the result of another call than its name says; remove it")
        return result
    except FileNotFoundError:
        raise
    except (*MEANINGLESS, KeyError, TypeError, RecursionError) as error:
        if refused(error):
            raise
        raise CorruptError(f"{path}: not a result of actstore ({error}); remove it") from None


def _parse(path: Path, provenance: dict[str, Any]) -> Result:
    """The result whose provenance it is; members that later versions write are passed over."""
    known = [one.name for one in fields(Result)[1:]]
    result = Result(path=path, **{name: provenance[name] for name in known if name in provenance})
    names = [] if result.commits is None else result.commits
    if not isinstance(result.parameters, dict) or not all(isinstance(name, str) for name in (*names, result.device)):
        raise ValueError("its provenance has members of another type")
    return result


def load_all(store: Path) -> Results:
    """Every saved result, by name, of one call the newest; warns of those that are damaged, and leaves them out."""
    named = [NAME.fullmatch(path.name) for path in local.listed(store / RESULTS)]
    calls = sorted({name["call"] for name in named if name})
    return Results(results[0] for call in calls if (results := _of_call(store, call)))


def remove(store: Path, names: Sequence[str]) -> None:
    """Remove the results of these names; ActstoreError for one that is not there, and none is removed then."""
    there: dict[str, list[Path]] = {}
    for path in local.listed(store / RESULTS):  # of one call there may be several, and damaged ones
        if match := NAME.fullmatch(path.name):
            there.setdefault(match["call"].replace("-", "_"), []).append(path)
    if lost := [name for name in names if name not in there]:
        raise ActstoreError(f"{store} has no result '{lost[0]}'{nearest(lost[0], list(there), 'see actstore results')}")
    try:
        for name in dict.fromkeys(names):
            for path in there[name]:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ActstoreError(f"{store}: a result could not be removed: {error.strerror or error}") from error


def runs(names: Sequence[str]) -> list[str]:
    """Names of records, those that follow each other as the first and the last.

    >>> runs(["c00000000.json", "b00000002.json", "b00000003.json", "b00000004.json", "b00000007.json"])
    ['c00000000', 'b00000002..b00000004', 'b00000007']
    """
    found: list[tuple[str, str]] = []
    for name in (name.removesuffix(".json") for name in names):
        if found and name == f"{found[-1][1][0]}{int(found[-1][1][1:]) + 1:08d}":
            found[-1] = (found[-1][0], name)
        else:
            found.append((name, name))
    return [first if first == last else f"{first}..{last}" for first, last in found]


def _call(measure: str, parameters: dict[str, Any], state: str) -> str:
    """The name of a call: the same call on the same commits has the same name."""
    if not isinstance(parameters, dict):
        raise ActstoreError(f"parameters of a result have names: {{'k': 10}}, not {short(parameters)}")
    try:
        call = json.dumps(json.loads(json.dumps([measure, parameters, state])), sort_keys=True)  # as it is read again
    except (TypeError, ValueError) as error:
        raise ActstoreError(f"parameters of a result are what JSON can say ({error})") from None
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
    found: list[Result] = []
    damaged: dict[Path, CorruptError] = {}
    for _ in range(TRIES):
        found, damaged, gone = [], {}, False
        for path in local.listed(store / RESULTS):
            try:
                name = NAME.fullmatch(path.name)
                found += [load(path)] if name and name["call"] == call else []
            except FileNotFoundError:  # the other program has replaced it since: what took its place may not be listed
                gone = True
            except CorruptError as error:
                damaged[path] = error
        if not gone:
            break
    return sorted(found, key=lambda result: (result.created, result.path.name), reverse=True), damaged


@cache
def _versions() -> Mapping[str, str]:
    """Of those libraries that compute numbers, the ones that are installed."""
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
