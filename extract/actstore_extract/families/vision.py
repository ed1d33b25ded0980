"""torchvision, which some processors need: the release that fits the torch that is installed, and one that does not."""

import re
from importlib.metadata import PackageNotFoundError, version

__all__ = ["broken", "missing"]

_TORCH = re.compile(r"2\.(\d+)\.(\d+)(\+\w+)?")
_OLDER = 15  # torch 2.N.M and torchvision 0.(N + 15).M are of one day, since 2.0 and 0.15


def missing(torch: str | None = None) -> str:
    """What to install beside that torch, or the one that is installed: of its release, and of its build.

    >>> missing("2.13.0")
    "its processor needs torchvision: pip install 'torchvision==0.28.0'"
    >>> missing("2.7.1+cpu")[33:]
    "pip install --no-deps 'torchvision==0.22.1+cpu', from the --index-url that torch 2.7.1+cpu came from"
    """
    return f"its processor needs torchvision: {_install(torch or version('torch'))}"


def broken(error: BaseException) -> str | None:
    """What is wrong with a torchvision that is installed, if it is what an import failed for.

    Transformers imports it wherever it finds one, and then cannot import itself.
    """
    cause: BaseException | None = error
    while cause is not None and "torchvision" not in f"{cause}":
        cause = cause.__cause__ or cause.__context__
    try:
        found = version("torchvision")
    except PackageNotFoundError:
        return None
    if cause is None:
        return None
    torch = version("torch")
    what = " ".join(f"{cause}".split())[:200]
    return f"torchvision {found} does not work beside torch {torch} ({what}): {_install(torch)}, or uninstall it"


def _install(torch: str) -> str:
    known = _TORCH.fullmatch(torch)
    if known is None:
        return f"pip install the torchvision that was released with torch {torch}, from where that came from"
    minor, micro, build = known.groups()
    fitting = f"torchvision==0.{int(minor) + _OLDER}.{micro}"
    if build is None:
        return f"pip install '{fitting}'"
    return f"pip install --no-deps '{fitting}{build}', from the --index-url that torch {torch} came from"
