"""Answers: the words whose probability as next token a recipe kept, and what stands for a label."""

from actstore.store import Store

__all__ = ["places", "words"]


def places(store: Store) -> dict[str, int]:
    """Label -> its place in answer_probabilities, as the recipe's [capture] answers have it; empty without any.

    A list says the labels themselves, a table their words.
    """
    return {str(label): i for i, label in enumerate(_answers(store))}


def words(store: Store) -> dict[str, str]:
    """Label -> the word that the answers have for it; empty without any."""
    found = _answers(store)
    return {str(label): str(found[label] if isinstance(found, dict) else label) for label in found}


def _answers(store: Store) -> list[str] | dict[str, str]:
    recipe = store.run.get("recipe")
    capture = recipe.get("capture") if isinstance(recipe, dict) else None
    return (capture.get("answers") if isinstance(capture, dict) else None) or []
