"""What goes wrong with samples."""

from actstore.errors import ActstoreError

__all__ = ["SamplesError"]


class SamplesError(ActstoreError):
    """The samples cannot be found or read."""
