"""Models by name: what ships with the package, and what is fetched once into the user's cache."""

from actstore_extract.shipped.models import MAPS, MODELS, located, origin
from actstore_extract.shipped.weights import WEIGHTS, Weights, WeightsError

__all__ = ["MAPS", "MODELS", "WEIGHTS", "Weights", "WeightsError", "located", "origin"]
