"""Model families: each a small file of facts and of the functions that differ."""

from actstore_extract.families.errors import LoadError
from actstore_extract.families.vision import broken

try:
    from actstore_extract.families.family import Family
    from actstore_extract.families.loading import load, own_dtype, rules_of, sources
    from actstore_extract.families.model import Batching, Model
    from actstore_extract.families.registry import families
    from actstore_extract.families.sample import MARKER, Batch, Encoded, Prompt, SampleError, Spans
except ImportError as error:  # of Transformers
    if said := broken(error):
        raise LoadError(said) from error
    raise

__all__ = [
    "MARKER",
    "Batch",
    "Batching",
    "Encoded",
    "Family",
    "LoadError",
    "Model",
    "Prompt",
    "SampleError",
    "Spans",
    "families",
    "load",
    "own_dtype",
    "rules_of",
    "sources",
]
