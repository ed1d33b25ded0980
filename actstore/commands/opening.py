"""Opening a store in a command, where what libraries have made by then is never looked at for garbage again."""

import gc
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actstore.limits import Limits
    from actstore.store import Store

__all__ = ["open_store"]

LIBRARIES = ("numpy", "polars", "pyarrow.parquet")


def open_store(path: Path | str, *, limits: "Limits | None" = None) -> "Store":
    """As `actstore.open`.

    Looking for cycles among what libraries have imported, while they do and at the end, takes a sixth of a short
    command. DuckDB comes after: its bindings say at the end that what is not let go of has leaked.
    """
    if "duckdb" not in sys.modules:
        gc.disable()
        for name in LIBRARIES:
            import_module(name)
        gc.freeze()
        gc.enable()
    from actstore.store import open as opened

    return opened(path, limits=limits)
