"""Links: paths for libraries that read more out of a path than the names of folders and a file."""

import atexit
import os
import re
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from actstore.errors import ActstoreError

# Patterns of DuckDB, fsspec, datasets; what DuckDB takes for a slash, and fsspec for a chain; bytes that are no text.
MEANT = re.compile(r"[*?\[\]{}\\\x00-\x1f\x7f\ud800-\udfff]|::")


def real(path: Path) -> Path:
    """Where a path leads, absolute and through every link; a link that leads to itself leads nowhere else.

    >>> real(Path("/usr/../usr"))
    PosixPath('/usr')
    """
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for such a link, until Python 3.13


def plain(path: Path) -> Path:
    """A path to the same file, absolute and without a character that is anything but part of a name.

    No library has a way to escape those that holds for all names: what they mean is kept from it by a link, in a folder
    of this process that goes when it ends. Raises ActstoreError where no such link can be made.

    >>> plain(Path("/runs/model=7b/~/rows.parquet"))
    PosixPath('/runs/model=7b/~/rows.parquet')
    """
    parts = path.absolute().parts
    odd = [index for index, name in enumerate(parts) if MEANT.search(name)]
    if not odd:
        return Path(*parts)
    return _link(Path(*parts[: odd[-1] + 1]), os.getpid()).joinpath(*parts[odd[-1] + 1 :])


@cache
def _link(target: Path, process: int) -> Path:
    try:
        folder = Path(mkdtemp(prefix="actstore-"))
        atexit.register(_remove, folder, process)
        link = folder / "target"
        link.symlink_to(target)
    except OSError as error:
        raise ActstoreError(f"{target}: no link to it can be made ({error}); rename it, or set TMPDIR") from error
    if MEANT.search(str(link)):
        raise ActstoreError(f"{target}: its name is a pattern to others, and so is {folder}; rename it, or set TMPDIR")
    return link


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a fork ends without what it did not make
        shutil.rmtree(folder, ignore_errors=True)
