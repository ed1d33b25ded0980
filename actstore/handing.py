"""Handing on: names that a package offers, imported when they are first used; and what to install for them."""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points, requires
from typing import Any

from actstore.errors import ActstoreError

__all__ = ["handed_on", "how_to_install", "joined", "pip_line"]

# Top-level module -> the extra that installs it.
EXTRAS = {
    "PIL": "extract",
    "accelerate": "extract",
    "datasets": "extract",
    "pydantic": "extract",
    "safetensors": "extract",
    "torch": "extract",
    "transformers": "extract",
    "altair": "analyze",
    "faiss": "analyze",
    "hdbscan": "analyze",
    "jinja2": "analyze",
    "scipy": "analyze",
    "sklearn": "analyze",
    "vl_convert": "analyze",
    "anywidget": "explore",
    "starlette": "explore",
    "uvicorn": "explore",
    "peft": "train",
    "sae_lens": "sae",
    "openai": "judge",
    "distributed": "dask",
    "h5py": "anndata",
    "huggingface_hub": "hub",
    "obstore": "remote",
    "xarray": "xarray",
}


def how_to_install(error: ModuleNotFoundError) -> str | None:
    """A missing module and the pip line that brings it, or None for one that no extra brings.

    >>> how_to_install(ModuleNotFoundError(name="openai"))
    "openai; install it with: pip install 'openai>=1.56'"
    """
    module = (error.name or "").split(".")[0]
    extra = EXTRAS.get(module)
    return f"{module}; install it with: {pip_line(extra)}" if extra else None


def pip_line(extra: str) -> str:
    """What pip installs for an extra of this package, by the names that every index has.

    >>> pip_line("sae")
    "pip install 'sae-lens>=6.52'"
    """
    needed = [line.partition(";") for line in requires("actstore") or ()]
    own = [f"'{name.strip()}'" for name, _, marker in needed if f"extra == '{extra}'" in marker.replace('"', "'")]
    return " ".join(["pip install", *own])


def joined(group: str, name: str) -> Any:
    """What an entry point offers: the core imports no other package. ActstoreError where an extra is missing."""
    (entry,) = entry_points(group=group, name=name)
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if line := how_to_install(error):
            raise ActstoreError(f"{name} needs {line}") from None
        raise


def handed_on(
    package: str, names: Sequence[str], home: str, **homes: str
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: its names are those of its module `home`, but for those in `homes`.

    So `actstore --help` needs none of numpy, polars and duckdb, and a command loads before its measure does.
    """

    def get(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{homes.get(name, home)}"), name)

    return get, lambda: sorted(names)
