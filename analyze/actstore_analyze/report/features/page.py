"""Features as one page that asks nobody for anything."""

from collections.abc import Sequence
from typing import Any

from actstore.errors import visible
from actstore_analyze.report.features.dashboard import Dashboard

__all__ = ["page"]


def page(title: str, methods: str, found: Sequence[Dashboard], shares: Sequence[tuple[int, int]]) -> str:
    """The page; shares: of each layer how many features were ever active, for the line above."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("actstore_analyze.report.features"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value, lines=True) if type(value) is str else value,
    )
    content: dict[str, Any] = {"title": title, "methods": methods, "found": found, "shares": shares}
    return environment.get_template("features.html").render(content)
