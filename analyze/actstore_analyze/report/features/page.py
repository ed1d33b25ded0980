"""Features as one page that asks nobody for anything."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from actstore.errors import visible
from actstore_analyze.report.features.dashboard import Dashboard

__all__ = ["page"]

ROWS = ("role", "prompt_order", "condition")


def page(
    title: str, methods: str, found: Sequence[Dashboard], shares: Sequence[tuple[int, int]], other_model: str | None
) -> str:
    """The page; shares: of each layer how many features were ever active, for the line above; other_model: what is to
    be said of autoencoders of another model.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("actstore_analyze.report.features"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value, lines=True) if type(value) is str else value,
    )
    content: dict[str, Any] = {
        "title": title,
        "methods": methods,
        "found": found,
        "shares": shares,
        "names": _names(found),
        "other_model": other_model,
    }
    return environment.get_template("features.html").render(content)


def _names(found: Sequence[Dashboard]) -> list[str]:
    """Of each its layer, number and label, and where it stands more than once, of which rows it is."""
    often = Counter((one.row["layer"], one.row["feature"]) for one in found)
    rows = [column for column in ROWS if len({one.row[column] for one in found}) > 1]
    names = []
    for one in found:
        of = rows if often[one.row["layer"], one.row["feature"]] > 1 else []
        told = [one.row["label"], *(one.row[column] for column in of)]
        names.append(" ".join([f"{one.row['layer']}/{one.row['feature']}", *(text for text in told if text)]))
    return names
