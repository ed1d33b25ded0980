"""What a self-check raises."""

from actstore.errors import ActstoreError

__all__ = ["CheckError"]


class CheckError(ActstoreError):
    """What would be stored is not what the model computes, or not of the tokens it is said to be of."""
