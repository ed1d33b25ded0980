"""What SQL reads of a store: the files of its large tables, and what tells its contents from others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Tables"]


@dataclass(frozen=True)
class Tables:
    """The store's folder, a name for its state (equal states have equal contents), and how many parts and rows it has.

    rows, samples: give the Parquet files of the parts; plan, vocabulary: those of the store. Each is checked by then.
    format: that of the columns; own: those that rows have besides, with their types.
    """

    store: Path
    state: str
    n_parts: int
    n_rows: int
    rows: Callable[[], Sequence[Path]]
    samples: Callable[[], Sequence[Path]]
    plan: Callable[[], Path]
    vocabulary: Callable[[], Path]
    format: int
    own: Mapping[str, str] = field(default_factory=dict)
