"""SAELens' cached activations: a data set of sequences, with a column of vectors for each hook and their tokens."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actstore.errors import ActstoreError
from actstore_extract.run.importing.names import TRANSFORMER_LENS, Pattern
from actstore_extract.run.importing.source import ALL, Block, Source, Vectors, check_points, few

__all__ = ["source"]

TOKENS = "token_ids"
NO_TOKEN = -1  # what exports write where a vector is of none
ROWS = 1024  # sequences that are read together
PATTERNS = tuple(map(Pattern, TRANSFORMER_LENS))


def source(path: Path) -> Source:
    """The sequences in a folder that CacheActivationsRunner made, or `actstore export`; each is a sample."""
    import datasets

    try:
        held: Any = datasets.load_from_disk(str(path))
        names = held.column_names
    except (FileNotFoundError, NotADirectoryError, OSError, ValueError, AttributeError, KeyError) as error:
        raise ActstoreError(f"{path}: no data set that sae-lens cached ({str(error).partition(chr(10))[0]})") from None
    layers: dict[int, str] = {}
    for name in names:
        said = next((said for pattern in PATTERNS if (said := pattern.match(name, None))), None)
        if said is not None and said.layer is not None:
            if said.layer in layers:
                raise ActstoreError(f"{path}: columns {layers[said.layer]} and {name} are the same residual point")
            layers[said.layer] = name
    others = [name for name in names if name not in (*layers.values(), TOKENS)]
    if not layers:
        raise ActstoreError(f"{path}: no column is a residual point (blocks.0.hook_resid_post); there are {few(names)}")
    size = held.features[next(iter(layers.values()))].shape[0]
    blocks = []
    for start in range(0, len(held), ROWS):
        rows = held.select(range(start, min(start + ROWS, len(held)))).with_format("numpy")
        tokens = (
            {ALL: np.asarray(rows[TOKENS])} if TOKENS in names and (np.asarray(rows[TOKENS]) != NO_TOKEN).all() else {}
        )
        name = f"{path.name}, rows from {start}"
        blocks.append(Block(name, len(rows), partial(_read, rows, layers), {ALL: np.arange(size)}, tokens))
    notes = ["sae-lens shuffles sequences unless it is told not to: labels go by the order of its rows"]
    if others:
        notes.append(f"left out, as no residual points: {few(others)}")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return Source(blocks, check_points({path.name: [(ALL, layer) for layer in layers]}), files, None, {}, notes)


def _read(rows: Any, layers: dict[int, str]) -> Vectors:
    return {(ALL, layer): np.asarray(rows[name]) for layer, name in layers.items()}
