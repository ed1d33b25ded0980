"""Words: what a model would say next at stored vectors, by the logit lens of their store."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.read.tokens import as_read
from actstore.store import Store
from actstore_analyze.lens.measure import read

__all__ = ["likeliest"]


def likeliest(store: Store, vectors: NDArray[np.float32], k: int) -> list[list[tuple[str, float]]]:
    """Of each vector (n, d) the k likeliest next tokens as they are read, with their probabilities, likeliest first.

    Raises ActstoreError for a store that keeps no lens.
    """
    if store.lens is None:
        raise ActstoreError(f"{store} keeps no lens: capture.lens = true in the recipe")
    found = read(store.lens, vectors, k=k)
    names = dict(store.vocabulary.iter_rows())
    tokens = pl.Series([names.get(int(token), f"<{token}>") for token in found.tokens.reshape(-1)], dtype=pl.String)
    words = as_read(tokens, store.vocabulary["token"]).to_list()
    said = list(zip(words, map(float, found.probabilities.reshape(-1)), strict=True))
    each = found.tokens.shape[-1]
    return [said[i * each : (i + 1) * each] for i in range(len(vectors))]
