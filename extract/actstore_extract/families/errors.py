"""What is wrong with a model that cannot be loaded."""

from actstore.errors import ActstoreError

__all__ = ["LoadError"]


class LoadError(ActstoreError):
    """The model cannot be used."""
