"""Answers: the words of a recipe whose probability is kept, held against the samples before the model is loaded."""

from collections.abc import Mapping, Sequence

import polars as pl

from actstore.errors import nearest
from actstore_extract.recipe.sections import RecipeError
from actstore_extract.recipe.shelf import shipped
from actstore_extract.samples.synsets import papers

__all__ = ["PAPER", "TRUTH", "Answers", "check_answers", "names_of", "of_paper"]

Answers = str | Sequence[str] | Mapping[str, str]  # each sample's own by a template, words, or class = word
TRUTH = "truth"  # the column of a plan that has each sample's own answer
MOST_OWN = 1000  # different ones: each sample keeps the probability of all

PAPER = "narrow-gate"  # what [capture] answers may name instead of words
_TOKENIZERS = {"chameleon-7b": "chameleon", "chameleon-34b": "chameleon", "emu3": "emu3"}  # whose words there are


def of_paper(name: str, path: str, family: str | None) -> dict[str, str]:
    """The words of The Narrow Gate's code for the classes of its patching pairs: the first token of each.

    For the recipe `name` of the model at `path`. Which words is a matter of the tokenizer: that of the `family`, else
    of the model that the recipe ships for, else of the name on the hub. RecipeError for models of which the code has
    none.

    >>> [of_paper(*one)["jaguar"] for one in (("emu3/x", "/data/mine", None), ("mine", "facebook/chameleon-30b", None))]
    [' jag', ' Jaguar']
    """
    known = papers().words
    by_path = {one.data["model"]["path"].lower(): name for name, one in shipped().items() if "/" in name}
    model = name if "/" in name else by_path.get(path.lower(), "")
    tokenizer = family or _TOKENIZERS.get(model.partition("/")[0])
    words = known.get(tokenizer or "")
    if words is None:
        this = tokenizer or model.partition("/")[0] or path
        raise RecipeError(
            f'[capture] answers = "{PAPER}": the authors\' code has words for {" and ".join(known)} alone, and this is '
            f'{this}; list words yourself, {{ jaguar = " jaguar", ... }}, or say whose tokenizer it is: '
            '[model] family = "chameleon"'
        )
    return dict(words)


def names_of(answers: Answers, asked: pl.DataFrame) -> list[str]:
    """What the probabilities that are kept are called: words, classes, or the samples' own words as they come."""
    return asked[TRUTH].unique(maintain_order=True).to_list() if isinstance(answers, str) else list(answers)


def check_answers(answers: Answers, asked: pl.DataFrame, *, limited: bool) -> None:
    """RecipeError for answers that cannot be meant: words with {columns}, and a table class = word without its classes.

    Of samples that are `limited` some classes may be left out, but not all.
    """
    where = "[capture] answers"
    if isinstance(answers, str):
        if (n := len(names_of(answers, asked))) > MOST_OWN:
            raise RecipeError(
                f"{where} {answers!r}: {n:,} different words, and each sample keeps the probability of all of them; at "
                f"most {MOST_OWN:,} are: take fewer samples (--limit N), or list words"
            )
        return
    for word in answers.values() if isinstance(answers, Mapping) else answers:
        if "{" in word or "}" in word:
            raise RecipeError(f"{where}: {word!r} has braces, but answers are words, the same for all samples")
    if not isinstance(answers, Mapping) or not answers:
        return
    if "label" not in asked.columns:
        raise RecipeError(
            f"{where} is a table class = word, but the samples have no column label: list the words, "
            '["dog", "cat"], or name the column of classes: [samples] columns = { label = "COLUMN" }'
        )
    classes = asked["label"].drop_nulls().unique(maintain_order=True).cast(pl.String).to_list()
    missing = [name for name in answers if name not in classes]
    if missing and (len(missing) == len(answers) or not limited):
        shown = f"{', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''}"
        raise RecipeError(
            f"{where} is a table class = word, and no sample is of class '{missing[0]}'"
            f"{nearest(missing[0], classes, f'the column label has {shown}')}"
        )
