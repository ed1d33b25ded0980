"""Which actstore this is."""

import subprocess
from importlib.metadata import version
from pathlib import Path

__all__ = ["commit", "said"]

PACKAGE = Path(__file__).parent.parent


def said() -> str:
    """The version, and the commit where it is known.

    >>> said().split()[0] == version("actstore")
    True
    """
    known = commit()
    return version("actstore") + (f" (commit {known})" if known else "")


def commit() -> str | None:
    """The commit that the distribution was built from, else that of the checkout the code is in; None for neither."""
    built = PACKAGE / "commit.txt"
    if built.is_file():
        return built.read_text(encoding="utf-8").strip()
    if not (PACKAGE.parent / ".git").exists():
        return None
    asked = ["git", "-C", str(PACKAGE), "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
