"""What can go wrong, as one tree: everything a user can cause is an ActstoreError; and how text of others is shown."""

import re
from difflib import get_close_matches

# What a terminal acts on and a page cannot hold: control characters, what turns the direction of writing, halves of
# characters.
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
LINES = "\n\t"


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


def visible(text: str, *, lines: bool = False) -> str:
    """Text as it may be shown: characters that would not be seen, but obeyed, are written out.

    lines: line breaks and tabs stay.

    >>> visible("a\\x1b[31m [b]\\n")
    'a\\\\x1b[31m [b]\\\\n'
    """
    return UNSEEN.sub(lambda found: found[0] if lines and found[0] in LINES else ascii(found[0])[1:-1], text)
