"""What cannot be replayed."""

from actstore.errors import ActstoreError

__all__ = ["ReplayError"]


class ReplayError(ActstoreError):
    """This model, or what is stored of a sample, cannot be replayed."""
