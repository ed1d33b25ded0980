"""The table as Markdown: counts, then a line a kind."""

from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from actstore_extract.models.kind import image_text, text_only, variants
from actstore_extract.models.row import VERDICTS, Row

__all__ = ["counts", "table"]

_HEAD = """# Which classes of Transformers run

{versions}; float32 on a CPU. Written by `make models` (`python -m actstore_extract.models`), never by hand.

Each line is a tiny model of the real class with random weights and its own processor, run by `actstore extract` over
four prompts, alone and three a batch, and compared with forwards of the model itself, one prompt at a time, by hooks
and eager attention that share no code with the capture. Image tokens are the positions whose first vector depends on
the picture. **Right** means: every role at its tokens, the residuals of a sample that runs alone within 1e-5 of the
largest value (0 is equal to the last bit), those of a batch the same, the same next token and the same greedy text,
attention within 1e-5; or, but for samples that run alone, within ten times what eager attention itself differs from
the usual one, where that is more than a millionth. Samples that are something else in a padded batch run in batches
of one length, or of one, which is said. What a class cannot do is refused before the run, in the sentence given;
blocks that have no attention are said, their columns NaN.

{counts}
"""
_COLUMNS = ("model type", "class", "", "roles", "residual", "attention", "text", "batch", "what is refused, and why")


def table(rows: Mapping[str, Row]) -> str:
    """The whole page."""
    parts = [_HEAD.format(versions=_versions(), counts=counts(rows))]
    for title, names in _groups().items():
        there = [rows[name] for name in names if name in rows]
        parts.append(f"## {title}\n\n{_lines(there)}\n")
    return "\n".join(parts)


def counts(rows: Mapping[str, Row]) -> str:
    """How many came out how, a line a group."""
    lines = []
    for title, names in _groups().items():
        found = Counter(rows[name].verdict for name in names if name in rows)
        said = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])
        missing = [name for name in names if name not in rows]
        lines.append(f"* {title}: {len(names)} model types, {said}{f', {len(missing)} not tried' if missing else ''}")
    return "\n".join(lines)


def _groups() -> dict[str, list[str]]:
    return {
        "AutoModelForImageTextToText": image_text(),
        "AutoModelForCausalLM, those that the other does not map": text_only(),
        "Once more, configured otherwise": variants(),
    }


def _versions() -> str:
    found = []
    for name in ("actstore", "transformers", "torch", "torchvision"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


def _lines(rows: Iterable[Row]) -> str:
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    ran = row.verdict in ("right", "wrong") and row.residual is not None
    return tuple(
        cell.replace("|", "\\|").replace("<", "\\<")
        for cell in (
            row.name,
            row.architecture,
            row.verdict,
            ("no" if row.roles else "yes") if ran else "",
            _figure(row.residual) if ran else "",
            _attention(row) if ran else "",
            _text(row) if ran else "",
            _batch(row) if ran else "",
            _why(row),
        )
    )


def _figure(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def _attention(row: Row) -> str:
    if row.attention is None:
        return "refused"
    none = f"; none in blocks {', '.join(map(str, row.without))}" if row.without else ""
    return f"{_figure(row.attention)}{none}"


def _batch(row: Row) -> str:
    return f"{_figure(row.batch)}; {row.batches}" if row.batches else _figure(row.batch)


def _text(row: Row) -> str:
    if "generation" in row.left_out or "all but" in row.left_out:
        return "refused"
    return "no" if row.generation else "yes"


def _why(row: Row) -> str:
    said = [row.said, *row.refused, row.roles, row.generation, *row.notes]
    return ". ".join(dict.fromkeys(one.strip().rstrip(".") for one in said if one))
