"""What a run says of its model and prompts before it begins, such as words that the tokenizer does not know."""

from collections import Counter

import polars as pl

from actstore_extract.families import Model
from actstore_extract.forward.generation import Way, not_followed
from actstore_extract.pictures import MARKER
from actstore_extract.recipe.recipe import CaptureSection, PromptSection
from actstore_extract.run.content import Content

__all__ = ["known_words", "missing", "notes"]

FEW = 8  # words that a line names
SMALL = 2_000  # tokens of a vocabulary whose words can be listed


def notes(model: Model, asked: pl.DataFrame, section: PromptSection, way: Way | None) -> list[str]:
    """What is to be known of a model, of what its tokenizer makes of the prompts, and of how it generates."""
    unfollowed = [] if way is None else not_followed(model, way)
    return [*model.notes(), *_unknown_words(model, asked, section), *unfollowed]


def missing(capture: CaptureSection, content: Content) -> list[str]:
    """What a recipe wants kept and no sample has: roles, and attention to roles."""
    lost = [role for role in capture.roles if role not in content.residual]
    lost += [role for role in capture.kv if role not in content.keys]
    unseen = [f"attention to '{role}'" for role in capture.attention if role not in content.attention]
    mass = ["attention mass"] if capture.mass and "mass" not in content.attention else []
    return [*dict.fromkeys(f"role '{role}'" for role in lost), *unseen, *mass]


def _unknown_words(model: Model, asked: pl.DataFrame, section: PromptSection) -> list[str]:
    """A line that says which words of the prompts, and of what is said before them in the same words to all, its
    tokenizer does not know, and in how many samples; none where it knows all."""
    unknown = model.tokenizer.unk_token_id
    if unknown is None:
        return []
    before = [text for _, text in section.before() if "{" not in text]
    sign = str(model.tokenizer.unk_token)
    strange: dict[str, bool] = {sign: False}  # who writes the sign means it
    found, samples = Counter[str](), 0
    for prompt, count in asked["prompt"].drop_nulls().value_counts().iter_rows():
        words = {word for text in (prompt, *before) for word in text.replace(MARKER, " ").split()}
        for word in words - strange.keys():
            strange[word] = unknown in model.tokenizer(word, add_special_tokens=False).input_ids
        own = [word for word in words if strange[word]]
        found.update(dict.fromkeys(own, count))
        samples += count if own else 0
    if not found:
        return []
    said = ", ".join(repr(word) for word, _ in sorted(found.items(), key=lambda one: (-one[1], one[0]))[:FEW])
    more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
    where = f"in the prompts of {samples:,} of {asked.height:,} samples"
    remedy = f"ask in words that it knows{known_words(model)}"
    return [f"the tokenizer does not know {said}{more}, {where}, and reads {sign} there: {remedy}"]


def known_words(model: Model) -> str:
    """Some words of a tokenizer of few, in brackets, to choose from; nothing of one that has many."""
    vocabulary = model.tokenizer.get_vocab()
    if len(vocabulary) > SMALL:
        return ""
    words = sorted(word for word in vocabulary if word.isalpha() and word.islower() and len(word) > 1)
    return f" ({', '.join(words[:FEW])}{', ...' if len(words) > FEW else ''})" if words else ""
