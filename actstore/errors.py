"""What can go wrong, as one tree: everything a user can cause is an ActstoreError."""

from difflib import get_close_matches


class ActstoreError(Exception):
    """A mistake the user can mend; the command line prints it without a traceback."""


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


class DamagedWarning(UserWarning):
    """Something that can be made again is damaged, and was left out."""


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean 'label'?` for a name close to one that is known, else nothing.

    >>> nearest("lable", ["label", "role"])
    "; did you mean 'label'?"
    >>> nearest("xyz", ["label", "role"])
    ''
    >>> nearest("eio", ["eol", "eoi"])  # of those as close, the one with the same letters
    "; did you mean 'eoi'?"
    """
    close = get_close_matches(name, known)
    same = [each for each in close if sorted(each) == sorted(name)]
    return f"; did you mean '{(same or close)[0]}'?" if close else ""
