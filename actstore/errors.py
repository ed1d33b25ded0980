"""What can go wrong, as one tree: everything a user can cause is an ActstoreError; and how text of others is shown."""

import errno
import os
import re
from difflib import get_close_matches

# What a terminal acts on and a page cannot hold: control characters, what turns the direction of writing, halves of
# characters.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
LINES = "\n\t"
# What the system says of a path that leads to no such thing; whatever else it says tells nothing of what is there.
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
AGAIN = {
    errno.EACCES: "give yourself the right to it, or run this as its owner",
    errno.EMFILE: "allow more at once: ulimit -n 4096",
    errno.ENFILE: "close other programs, or allow more of them: fs.file-max",
    errno.EIO: "the disk fails; copy away what can still be read",
    errno.ESTALE: "the network share has changed under it; mount it anew, then run this again",
    errno.ENOSPC: "make room, then run this again",
    errno.EDQUOT: "make room, then run this again",
    errno.EROFS: "mount it so that it can be written, or work on a copy",
    errno.ENAMETOOLONG: "give a shorter name",
}


class ActstoreError(Exception):
    """A mistake the user can mend; the command line prints it without a traceback."""


class UndefinedError(ActstoreError):
    """A measure has no value for these vectors; it may have one for those of other layers."""


class NotAStoreError(ActstoreError, FileNotFoundError):
    """The folder holds no store."""


class FormatError(ActstoreError):
    """The store is of a format this version cannot read."""


class CorruptError(ActstoreError):
    """Bytes on disk differ from what was committed."""


class AlreadyCommittedError(ActstoreError, FileExistsError):
    """Another writer committed this batch first; this copy was discarded."""


class PlanError(ActstoreError):
    """The store was made for another plan or another run."""


class QueryError(ActstoreError):
    """The SQL cannot be run."""


class ActstoreWarning(UserWarning):
    """What a user must know and need not mend; the command line prints it as one line."""


class DamagedWarning(ActstoreWarning):
    """Something that can be made again is damaged, and was left out."""


def refused(error: BaseException) -> bool:
    """Whether the system would not let us see: rights, too many open files, a disk or a share that fails.

    Then nothing is known of what is there, least of all that it is damaged.

    >>> refused(PermissionError(errno.EACCES, "Permission denied")), refused(FileNotFoundError(errno.ENOENT, ""))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno is not None and error.errno not in NOT_THERE


def told(error: BaseException) -> OSError | None:
    """The error of the system that a library tells in words of its own, as those in Rust and HDF5 do; None for others.

    >>> told(ValueError("Error while serializing: I/O error: No space left on device (os error 28)"))
    OSError(28, 'No space left on device')
    """
    found = re.search(r"\(os error (\d+)\)|\berrno = (\d+)", str(error))
    number = int(found[1] or found[2]) if found else 0
    return OSError(number, os.strerror(number)) if number else None


def of_system(error: OSError) -> str:
    """An error of the system in one line: where, what, and what to do where that is known.

    >>> of_system(OSError(errno.EMFILE, "Too many open files", "s/actstore.json"))
    's/actstore.json: Too many open files; allow more at once: ulimit -n 4096'
    """
    where = " and ".join(os.fsdecode(one) for one in (error.filename, error.filename2) if isinstance(one, str | bytes))
    said = (error.strerror or str(error) or type(error).__name__).strip()
    known = AGAIN.get(error.errno or 0)
    return (f"{where}: " if where else "") + said + (f"; {known}" if known else "")


def nearest(name: object, known: list[str], also: str = "") -> str:
    """`; did you mean 'label'?` for a name close to one that is known, else nothing; what is said `also`, behind it.

    >>> nearest("lable", ["label", "role"])
    "; did you mean 'label'?"
    >>> nearest("xyz", ["label", "role"])
    ''
    >>> nearest("eio", ["eol", "eoi"])  # of those as close, the one with the same letters
    "; did you mean 'eoi'?"
    >>> nearest("EOI", ["eol", "eoi"])
    "; did you mean 'eoi'?"
    >>> nearest("lable", ["label", "role"], "there are label, role")
    "; did you mean 'label'? There are label, role"
    >>> nearest("xyz", ["label", "role"], "there are label, role")
    '; there are label, role'
    """
    close = [each for each in known if each.casefold() == str(name).casefold()] or get_close_matches(str(name), known)
    same = [each for each in close if sorted(each) == sorted(str(name))]
    if not close:
        return also and f"; {also}"
    return f"; did you mean '{(same or close)[0]}'? {also[:1].upper()}{also[1:]}".rstrip()


def visible(text: str, *, lines: bool = False) -> str:
    """Text as it may be shown: characters that would not be seen, but obeyed, are written out.

    lines: line breaks and tabs stay.

    >>> visible("a\\x1b[31m [b]\\n")
    'a\\\\x1b[31m [b]\\\\n'
    """
    return UNSEEN.sub(lambda found: found[0] if lines and found[0] in LINES else ascii(found[0])[1:-1], text)
