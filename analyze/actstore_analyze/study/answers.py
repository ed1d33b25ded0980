"""Answers: the words whose probability as next token a recipe kept, and what stands for a label, or for a sample."""

from actstore.store import Store

__all__ = ["TRUTH", "own", "places", "right", "tokens", "words"]

TRUTH = "truth"  # the column of each sample's own answer, where a recipe has such


def places(store: Store) -> dict[str, int]:
    """Label -> its place in answer_probabilities, as the recipe's [capture] answers have it; empty without any.

    A list says the labels themselves, a table their words; samples' own answers are those of the run card.
    """
    return {str(label): i for i, label in enumerate(_answers(store))}


def words(store: Store) -> dict[str, str]:
    """Label -> the word that the answers have for it; empty without any."""
    found = _answers(store)
    return {str(label): str(found[label] if isinstance(found, dict) else label) for label in found}


def tokens(store: Store) -> dict[str, int]:
    """Label -> the token that the run card has for it; empty where it says none."""
    found = store.run.get("answer_tokens")
    return {str(name): int(token) for name, token in found.items()} if isinstance(found, dict) else {}


def right(store: Store, label: str | None) -> str | None:
    """The column of what is right to say: each sample's own answer, where the recipe has such, else the label."""
    return TRUTH if _are_own(store) else label


def own(store: Store) -> dict[str, int] | None:
    """Sample -> the token of its own answer; None where the recipe has no such answers."""
    if not _are_own(store):
        return None
    known = tokens(store)
    return {name: known[word] for name, word in store.plan.select("sample_id", TRUTH).unique().iter_rows()}


def _are_own(store: Store) -> bool:
    return isinstance(_said(store), str) and TRUTH in store.plan.columns


def _answers(store: Store) -> list[str] | dict[str, str]:
    said = _said(store)
    return list(tokens(store)) if isinstance(said, str) else said


def _said(store: Store) -> str | list[str] | dict[str, str]:
    recipe = store.run.get("recipe")
    capture = recipe.get("capture") if isinstance(recipe, dict) else None
    return (capture.get("answers") if isinstance(capture, dict) else None) or []
