"""Charts of the gallery as pictures, for sphinx-gallery."""

from typing import Any

import altair as alt
from sphinx_gallery.scrapers import figure_rst


def scraper(_block: Any, variables: dict[str, Any], settings: dict[str, Any]) -> str:
    """The chart that a block leaves behind as `figure`, once."""
    found = variables["example_globals"].pop("figure", None)
    if not isinstance(found, alt.TopLevelMixin):
        return ""
    path = next(variables["image_path_iterator"])
    found.save(path, scale_factor=2)
    return figure_rst([path], settings["src_dir"])
