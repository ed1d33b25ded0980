"""A row of the table: what came out of one kind."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["VERDICTS", "Row", "read", "write"]

VERDICTS = ("right", "refused", "wrong", "no reference", "not built")


@dataclass
class Row:
    """What came out of one kind; `verdict` is one of `VERDICTS` and `said` its reason, in words.

    `left_out` is what had to be left out to run and `refused` what was said of it. `roles` and `generation` are empty
    where they are right. `residual` is the largest relative difference from each sample alone in the model itself,
    `batch` the same of samples that ran three a batch, `attention` the largest difference of a head mean; each None
    where nothing was compared. `batches` says how these shared a forward, if not padded. `without` are blocks that
    have no attention, `seconds` those of the CPU.
    """

    name: str
    architecture: str
    sees: bool
    verdict: str = ""
    said: str = ""
    left_out: str = ""
    refused: list[str] = field(default_factory=list)
    roles: str = ""
    residual: float | None = None
    attention: float | None = None
    without: list[int] = field(default_factory=list)
    generation: str = ""
    batch: float | None = None
    batches: str = ""
    notes: list[str] = field(default_factory=list)
    blocks: str = ""
    seconds: float = 0.0


def write(row: Row, folder: Path) -> None:
    """Keep a row as NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{row.name}.json").write_text(json.dumps(asdict(row), indent=1), encoding="utf-8")


def read(folder: Path) -> dict[str, Row]:
    """Name -> row of all that are kept."""
    found = (Row(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json")))
    return {row.name: row for row in found}
