"""Hatch's hook: the commit that a distribution is built from goes into it, for `actstore --version`."""

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "actstore/commit.txt"


class Commit(BuildHookInterface):  # type: ignore[type-arg]
    """Writes the commit of the checkout; a wheel of an sdist has what the sdist has, an editable install asks git."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds."""
        root = Path(self.root)
        if version == "editable" or not (root / ".git").exists():
            return
        asked = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
        commit = subprocess.run(asked, capture_output=True, text=True, check=False)
        if commit.returncode == 0:
            written = Path(self.directory) / "commit.txt"
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(commit.stdout)
            build_data["force_include"][str(written)] = PLACE
