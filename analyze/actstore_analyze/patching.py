"""The name that `actstore_analyze.patch.measure` has had since 0.1."""

from actstore_analyze.patch.measure import accuracy, probabilities, sign_flip_accuracy, similarity

__all__ = ["accuracy", "probabilities", "sign_flip_accuracy", "similarity"]
