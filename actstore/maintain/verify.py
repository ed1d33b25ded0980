"""Verification: every byte of a store against what was committed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from actstore.errors import ActstoreError, CorruptError, of_system, refused
from actstore.format import checkpoint, commits, plan, results
from actstore.format.commits import Commit, File
from actstore.format.header import Header
from actstore.format.names import CHECKPOINT, COMMITS, PARTS, PLAN, RESULTS
from actstore.format.schema import KEY
from actstore.format.schema import PLAN as PLAN_COLUMNS
from actstore.format.tables import read_table
from actstore.read.arrays import checksums
from actstore.read.parts import Part
from actstore.storage import local
from actstore.store import Store

Check = Callable[[], object]


@dataclass(frozen=True)
class Problem:
    """Something in a store that is not as it was committed; the batches it touches, and the commit record of those.

    unread: the system would not let us see; nothing is known of what is there.
    """

    file: str
    problem: str
    batches: tuple[int, ...] = ()
    record: str | None = None
    unread: bool = False


@dataclass(frozen=True)
class Step:
    """One thing to be checked, and what it belongs to."""

    file: str
    check: Check
    batches: tuple[int, ...] = ()
    record: str | None = None

    def run(self) -> Problem | None:
        """The problem found, or None."""
        try:
            self.check()
        except (ActstoreError, pl.exceptions.PolarsError) as error:  # a damaged plan has other columns
            return Problem(self.file, str(error), self.batches, self.record)
        except OSError as error:
            return Problem(self.file, of_system(error), self.batches, self.record, unread=refused(error))
        return None


def steps(path: Path) -> list[Step]:
    """Everything there is to check in a store; raises NotAStoreError or FormatError where there is nothing to check."""
    header = Header.load(path)
    found = [Step(name, _of_header(path, header, name)) for name in header.files]
    found.append(Step(COMMITS, lambda: commits.load_all(path, header.crc32c)))
    if (path / CHECKPOINT).is_symlink() or (path / CHECKPOINT).exists():
        found.append(Step(CHECKPOINT, lambda: checkpoint.check(path, header)))
    found += _steps_of_commits(path, header)
    for saved in local.listed(path / RESULTS):
        if saved.name.startswith("."):
            continue
        found.append(Step(f"{RESULTS}/{saved.name}", _result(saved)))
    return found


def steps_at(store: Store) -> list[Step]:
    """Everything there is to check in a store at a URL; records are compared with those that this reader has."""
    assert store.mirror is not None
    compare = store.mirror.compare
    found = [Step(name, partial(compare, name, file)) for name, file in store.header.files.items()]
    for commit in store.commits:
        names = {f"{PARTS}/{commit.part}/{name}": file for name, file in commit.files.items()}
        if store.mirror.storage.lists:
            names |= {f"{COMMITS}/{commit.name}": File.of(store.path / COMMITS / commit.name)}
        found += [Step(name, partial(compare, name, file), commit.batches, commit.name) for name, file in names.items()]
    return found


def _steps_of_commits(path: Path, header: Header) -> Iterator[Step]:
    read, broken = _records(path, header)
    passed_over = commits.superseded(read)  # the parts of those may have gone
    if any(name.startswith("c") and isinstance(error, OSError) for name, error in broken.items()):
        passed_over |= {
            commit.name for commit in read if not (path / PARTS / commit.part).exists()
        }  # as far as we know
    for name, error in broken.items():
        if name not in passed_over:
            batches = (int(name[1:9]),) if name.startswith("b") else ()
            yield Step(f"{COMMITS}/{name}", lambda error=error: _fail(error), batches, name)  # type: ignore[misc]
    for commit in read:
        if commit.name not in passed_over:
            yield from _steps_of(path, commit, header)


def _records(path: Path, header: Header) -> tuple[list[Commit], dict[str, CorruptError | OSError]]:
    """The commits that can be read, and why the others cannot."""
    read: list[Commit] = []
    broken: dict[str, CorruptError | OSError] = {}
    for name in commits.names(path):
        try:
            found, damaged = commits.readable(path, header.crc32c, [name])
        except OSError as error:
            if not refused(error):
                raise
            broken[name] = error
        else:
            read += found
            broken |= damaged
    return read, broken


def _steps_of(path: Path, commit: Commit, header: Header) -> Iterator[Step]:
    folder = f"{PARTS}/{commit.part}"
    for name, file in commit.files.items():
        yield Step(f"{folder}/{name}", _whole(path / folder / name, file), commit.batches, commit.name)
    yield Step(folder, lambda: _check_contents(path, commit, header), commit.batches, commit.name)


def _of_header(path: Path, header: Header, name: str) -> Check:
    if name == PLAN:
        return lambda: plan.load(header.checked(path, name))
    return lambda: header.checked(path, name)


def _result(path: Path) -> Check:
    def check() -> None:
        with suppress(FileNotFoundError):  # it was saved anew since it was listed
            results.load(path)

    return check


def _whole(path: Path, file: commits.File) -> Check:
    return lambda: file.check(path, whole=True)


def _fail(error: CorruptError | OSError) -> None:
    raise error


def _check_contents(path: Path, commit: Commit, header: Header) -> None:
    """Tables and arrays agree with the record, the plan and each other, and nothing else lies in the folder."""
    part = Part(path, commit, header.form, header.rows)
    commit.check_folders(path)
    present = {file.relative_to(part.folder).as_posix() for file in local.files(part.folder)}
    if strange := sorted(present - commit.files.keys()):
        raise CorruptError(f"{part.folder / strange[0]}: not in the commit record; remove it")
    rows, samples = part.rows(), part.samples()
    planned = read_table(path / PLAN).filter(pl.col("batch").is_in(list(commit.batches)))
    if sorted(samples.select(KEY).rows()) != sorted(planned.select(KEY).rows()):
        raise CorruptError(f"{part.folder}: its samples are not those of the plan")
    if rows.join(samples, on=KEY, how="anti").height:
        raise CorruptError(f"{part.folder}: rows of a sample that the part does not hold")
    if not set(rows["row_id"] // 2**32) <= set(commit.batches):
        raise CorruptError(f"{part.folder}: row ids of another batch")
    _check_places(part, rows)
    header.check_fits(commit)
    for name, spec in commit.arrays.items():
        if checksums(part.folder / name, spec) != spec.chunk_crc32c:
            raise CorruptError(f"{part.folder / name}: the checksum of a chunk is not the committed one")


def _check_places(part: Part, rows: pl.DataFrame) -> None:
    """The rows of a role are the places of its arrays, each once."""
    part.places  # noqa: B018  (raises where the rows are out of order or outside the arrays)
    counts = dict(rows.group_by("role").agg(pl.col("place").n_unique()).rows())
    sizes = part.commit.roles
    if counts != sizes or rows.height != sum(sizes.values()):
        raise CorruptError(f"{part.folder}: rows {counts} do not match the vectors {sizes}")


def run(checks: list[Step], advance: Callable[[], None] = lambda: None) -> list[Problem]:
    """Run every check, several files at a time; returns what was found, in the order of the checks."""
    with ThreadPoolExecutor() as pool:
        found = []
        for problem in pool.map(Step.run, checks):
            advance()
            found += [problem] if problem else []
        return found


def apart(problems: list[Problem]) -> tuple[list[Problem], str | None]:
    """What is damaged; and what to say of files that could not be read, None where all of them could."""
    unread = [problem for problem in problems if problem.unread]
    damaged = [problem for problem in problems if not problem.unread]
    if not unread:
        return damaged, None
    return damaged, (
        f"{len(unread)} of them could not be made, which says nothing of what is there: {unread[0].problem}; a file "
        "that no one can read any more counts as lost once it is moved away"
    )


def report(path: Path, problems: list[Problem]) -> pl.DataFrame:
    """Problems as a table: file, problem, samples touched and the first of them."""
    touched = _touched(path, problems)
    return pl.DataFrame(
        {
            "file": [problem.file for problem in problems],
            "problem": [problem.problem.removeprefix(f"{path}/") for problem in problems],
            "samples": [frame.height for frame in touched],
            "first_sample": [next(iter(frame["sample_id"]), None) for frame in touched],
        },
        schema={"file": pl.String, "problem": pl.String, "samples": pl.Int64, "first_sample": pl.String},
    )


def samples(path: Path, problems: list[Problem]) -> pl.DataFrame:
    """Every sample that a problem touches, one line for each of both: file, batch, sample_id, condition."""
    touched = zip(problems, _touched(path, problems), strict=True)
    return pl.concat(frame.select(pl.lit(problem.file).alias("file"), "batch", *KEY) for problem, frame in touched)


def _touched(path: Path, problems: list[Problem]) -> list[pl.DataFrame]:
    """For each problem the lines of the plan that are its samples; none of a plan that is itself damaged."""
    try:
        planned = plan.load(Header.load(path).checked(path, PLAN))
    except (ActstoreError, OSError):
        planned = pl.DataFrame(schema=PLAN_COLUMNS)
    return [planned.filter(pl.col("batch").is_in(list(problem.batches))) for problem in problems]
