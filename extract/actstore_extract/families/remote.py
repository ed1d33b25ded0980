"""Code that a checkpoint brings along: it runs as whoever loads it, so only where they say so."""

from transformers.utils.hub import TRANSFORMERS_DYNAMIC_MODULE_NAME

__all__ = ["brought", "refusal"]


def brought(thing: object) -> str | None:
    """The class of a configuration or a model, by its module, where that is a checkpoint's own; None otherwise."""
    kind = type(thing)
    return (
        f"{kind.__module__}.{kind.__name__}" if kind.__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME) else None
    )


def refusal(path: str) -> str:
    """What is said of a checkpoint whose code nobody has allowed."""
    return (
        f"{path} brings code of its own, which is not run unasked: read it, and where you trust it set "
        "[model] remote_code = true (--set model.remote_code=true) in extract, where it then runs as you do; "
        "a training runs no such code"
    )
