"""Models by name: what ships with the package, and what is fetched once into the user's cache."""

from actstore_extract.shipped.models import MODELS, licence, located
from actstore_extract.shipped.weights import WEIGHTS, Weights, WeightsError

__all__ = ["MODELS", "WEIGHTS", "Weights", "WeightsError", "licence", "located"]
