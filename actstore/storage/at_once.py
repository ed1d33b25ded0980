"""At once: several requests, each of which waits for its answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["each"]

MOST = 16  # requests

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], things: Sequence[T], /) -> list[R]:
    """function of each, several at once; the first error of any."""
    if len(things) < 2:
        return [function(one) for one in things]
    with ThreadPoolExecutor(min(MOST, len(things)), thread_name_prefix="remote") as pool:
        return list(pool.map(function, things))
