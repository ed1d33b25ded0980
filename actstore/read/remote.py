"""Stores at URLs: what reads them takes an extra, and is imported when one is asked for."""

from typing import TYPE_CHECKING

from actstore.errors import ActstoreError
from actstore.handing import how_to_install

if TYPE_CHECKING:
    from actstore.read.mirror import Mirror

__all__ = ["mirrored"]


def mirrored(url: str) -> "Mirror":
    """The mirror of the store at a URL, as of now; raises ActstoreError where what reads it is not installed."""
    try:
        from actstore.read import mirror
    except ModuleNotFoundError as error:
        if line := how_to_install(error):
            raise ActstoreError(f"{url}: a store at a URL needs {line}") from None
        raise
    return mirror.opened(url)
