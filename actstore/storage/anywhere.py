"""Anywhere: the storage at a URL, whatever kind it is of."""

from actstore.storage import objects
from actstore.storage.objects import Storage
from actstore.storage.urls import checked

__all__ = ["opened"]


def opened(url: str) -> Storage:
    """The storage at a URL; credentials are those of the environment. Raises ActstoreError for what is no such URL."""
    if checked(url).startswith("hf:"):
        from actstore.storage.hub import Hub  # its library is of another extra

        return Hub(checked(url))
    return objects.opened(url)
