"""Verification: every byte of a store against what was committed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from actstore.commits import COMMITS, PARTS, Commit
from actstore.errors import ActstoreError, CorruptError
from actstore.format import COMMIT_NAME
from actstore.header import Header
from actstore.parts import Part
from actstore.tables import read_table

Check = Callable[[], None]


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it was committed, and the batches it touches."""

    file: str
    problem: str
    batches: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """One thing to be checked."""

    file: str
    check: Check
    batches: tuple[int, ...] = ()

    def run(self) -> Problem | None:
        """The problem found, or None."""
        try:
            self.check()
        except (ActstoreError, OSError) as error:
            return Problem(self.file, str(error), self.batches)
        return None


def steps(path: Path) -> list[Step]:
    """Everything there is to check in a store; raises NotAStoreError or FormatError where there is nothing to check."""
    header = Header.load(path)
    found = [
        Step(name, lambda name=name, file=file: file.check(path / name, whole=True))  # type: ignore[misc]
        for name, file in header.files.items()
    ]
    for record in sorted((path / COMMITS).glob("*.json")):
        if COMMIT_NAME.fullmatch(record.name):
            found += _steps_of(path, record, header)
    return found


def _steps_of(path: Path, record: Path, header: Header) -> Iterator[Step]:
    name = f"{COMMITS}/{record.name}"
    try:
        commit = Commit.from_record(record)
    except ActstoreError as error:
        message = str(error)
        yield Step(name, lambda: _fail(message), (int(record.name[1:9]),))
        return
    folder = f"{PARTS}/{commit.part}"
    for file, expected in commit.files.items():
        yield Step(
            f"{folder}/{file}",
            lambda file=file, expected=expected: expected.check(path / folder / file, whole=True),  # type: ignore[misc]
            commit.batches,
        )
    yield Step(folder, lambda: _check_contents(path, commit, header), commit.batches)


def _fail(message: str) -> None:
    raise CorruptError(message)


def _check_contents(path: Path, commit: Commit, header: Header) -> None:
    """Tables and arrays agree with the record and with each other, and nothing else lies in the folder."""
    part = Part(path, commit)
    present = {file.relative_to(part.folder).as_posix() for file in part.folder.rglob("*") if not file.is_dir()}
    if strange := sorted(present - commit.files.keys()):
        raise CorruptError(f"{part.folder / strange[0]}: not in the commit record; remove it")
    rows, samples = part.rows(), part.samples()
    if not rows["row_id"].is_sorted() or rows["row_id"].n_unique() != rows.height:
        raise CorruptError(f"{part.folder}: row ids are not ascending")
    if rows.join(samples, on=["sample_id", "condition"], how="anti").height:
        raise CorruptError(f"{part.folder}: rows of a sample that the part does not hold")
    counts = dict(rows.group_by("role").len().rows())
    for name, spec in commit.arrays.items():
        part.array(name)
        kind, role = name.split("/", 1)
        expected = counts.pop(role, 0) if kind == "residual" else samples.height
        if spec.shape[:2] != (len(header.layers), expected):
            raise CorruptError(f"{part.folder / name}: shape {spec.shape} does not fit {expected} rows")
    if counts:
        raise CorruptError(f"{part.folder}: rows of role '{next(iter(counts))}' have no vectors")


def run(checks: list[Step], advance: Callable[[], None] = lambda: None) -> list[Problem]:
    """Run every check, several files at a time; returns what was found, in the order of the checks."""
    with ThreadPoolExecutor() as pool:
        found = []
        for problem in pool.map(Step.run, checks):
            advance()
            found += [problem] if problem else []
        return found


def report(path: Path, problems: list[Problem]) -> pl.DataFrame:
    """Problems as a table: file, problem, samples touched and the first of them."""
    try:
        plan = read_table(path / "plan.parquet")
    except ActstoreError:
        plan = pl.DataFrame(schema={"batch": pl.Int32, "sample_id": pl.String})
    touched = [plan.filter(pl.col("batch").is_in(list(problem.batches)))["sample_id"] for problem in problems]
    return pl.DataFrame(
        {
            "file": [problem.file for problem in problems],
            "problem": [problem.problem.removeprefix(f"{path}/") for problem in problems],
            "samples": [len(ids) for ids in touched],
            "first_sample": [ids[0] if len(ids) else None for ids in touched],
        },
        schema={"file": pl.String, "problem": pl.String, "samples": pl.Int64, "first_sample": pl.String},
    )
