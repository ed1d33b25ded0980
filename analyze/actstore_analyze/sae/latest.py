"""The latest of what takes long to make and much memory: kept for whoever asks for the same next."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Latest"]

T = TypeVar("T")


class Latest(Generic[T]):
    """One value by its key, which is given up before another is made."""

    def __init__(self) -> None:
        self._held: dict[Hashable, T] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of the key; made, unless it is the latest."""
        found = self._held.get(key)
        if found is None:
            self.clear()
            found = self._held[key] = make()
        return found

    def clear(self) -> None:
        """Give it up."""
        self._held.clear()
