"""The model side of actstore: recipes, samples, model families, capture and the runner."""

import warnings
from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_extract.run.extraction import extract

__all__ = ["extract"]

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in a notebook: bars are our own

__getattr__, __dir__ = handed_on(__name__, __all__, "run.extraction")
