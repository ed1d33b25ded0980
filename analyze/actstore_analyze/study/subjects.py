"""Subjects: stores under the names that they have on a page or in a figure."""

from collections.abc import Sequence
from dataclasses import dataclass

from actstore.store import Store

__all__ = ["Subject", "subjects"]


@dataclass(frozen=True)
class Subject:
    """A store under the name it has on a page."""

    store: Store
    title: str


def subjects(stores: Sequence[Store]) -> list[Subject]:
    """The stores, each once, named by their models; where that is no name of one store, by their folders too."""
    distinct = list({store.path.resolve(): store for store in stores}.values())
    models = [str(store.run.get("model") or "").rstrip("/").split("/")[-1] for store in distinct]
    folders = [store.path.resolve().name for store in distinct]
    return [
        Subject(store, model if models.count(model) == 1 and model else f"{model} ({folder})" if model else folder)
        for store, model, folder in zip(distinct, models, folders, strict=True)
    ]
