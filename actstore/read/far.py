"""Far: the bytes of a shard on object storage, where a request costs as much as a megabyte."""

from collections.abc import Sequence

from actstore.storage.objects import Storage

__all__ = ["Far", "Held", "together"]

APART = 2**20  # bytes between two stretches that are read in one request
LONGEST = 2**24  # bytes of one request
WINDOW = 2**25  # bytes that are held of a shard


class Far:
    """A shard of `n_bytes`: what is expected next is fetched along, and its end, where the index is, once for all.

    tails: ends of shards by their names, as they were read. Used by one thread at a time.
    """

    def __init__(self, storage: Storage, name: str, n_bytes: int, tails: dict[str, bytes]) -> None:
        self._storage, self._name, self._n_bytes, self._tails = storage, name, n_bytes, tails
        self._expected: list[tuple[int, int]] = []
        self._held: list[tuple[int, bytes]] = []

    def expect(self, stretches: Sequence[tuple[int, int]]) -> None:
        """These stretches [start, end) are going to be read, in this order."""
        self._expected = list(stretches)

    def read(self, start: int, size: int) -> bytes:
        """That stretch, or less of it where the shard ends."""
        end = start + size
        if end == self._n_bytes:
            if self._name not in self._tails:
                (self._tails[self._name],) = self._storage.stretches(self._name, [(start, end)])
            return self._tails[self._name]
        for begin, content in self._held:
            if begin <= start and end <= begin + len(content):
                return content[start - begin : end - begin]
        wanted = together(self._window(start, end))
        contents = self._storage.stretches(self._name, wanted)
        self._held = [(begin, content) for (begin, _), content in zip(wanted, contents, strict=True)]
        return next((found[start - at : end - at] for at, found in self._held if at <= start < at + len(found)), b"")

    def _window(self, start: int, end: int) -> list[tuple[int, int]]:
        """The stretch, and as many of those that are expected after it as may be held."""
        place = next((n for n, (begin, until) in enumerate(self._expected) if begin <= start and end <= until), None)
        if place is None:
            return [(start, end)]
        window: list[tuple[int, int]] = []
        for begin, until in self._expected[place:]:
            if window and until - begin + sum(b - a for a, b in window) > WINDOW:
                break
            window.append((begin, until))
        return window


class Held:
    """All bytes of a shard, in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def expect(self, stretches: Sequence[tuple[int, int]]) -> None:
        """See `shards.Source`."""

    def read(self, start: int, size: int) -> bytes:
        """See `shards.Source`."""
        return self._content[start : start + size]


def together(stretches: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches that are near each other made one, those that would be too long left apart.

    >>> together([(0, 10), (20, 30), (5_000_000, 5_000_001)])
    [(0, 30), (5000000, 5000001)]
    """
    found: list[tuple[int, int]] = []
    for start, end in sorted(stretches):
        if found and start - found[-1][1] <= APART and max(end, found[-1][1]) - found[-1][0] <= LONGEST:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found
