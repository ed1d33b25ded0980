"""Words that stand for classes, and their tokens: the first of each."""

from collections.abc import Callable, Mapping, Sequence

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.study import answers
from actstore_analyze.study.selection import Say

__all__ = ["tokens_of"]

Pairs = Sequence[tuple[str | None, str | None]]


def tokens_of(
    store: Store,
    tokens: Callable[[str, Sequence[str]], list[int]],
    unknown: int | None,
    pairs: Pairs,
    given: Mapping[str, str],
    *,
    say: Say,
    remedy: str = "",
) -> dict[str, int] | None:
    """Class -> the token of its word: the one given, else that of the recipe's answers, else the class's own name.

    Answers have the token that the run card has for them. `tokens` are those of a word after the prompts of the store,
    `unknown` the one for what the tokenizer does not know. The first of several stands for the word, which is said.
    None, and said why, where no accuracy can be told: for what is of no class, for a word that is unknown or another
    after each prompt, and for a pair whose words begin with the same token. `remedy` is said where a class is missing.
    ActstoreError for a word that was given and is unknown.
    """
    named = [(one, other) for one, other in pairs if one is not None and other is not None]
    if len(named) < len(pairs):
        say("no accuracy: not everything that is put in, and not every receiver, has a class" + remedy)
        return None
    words = {name: name for pair in named for name in pair} | answers.words(store) | dict(given)
    prompts, recorded = _prompts(store), store.run.get("answer_tokens") or {}
    found: dict[str, int] = {}
    for name in sorted({name for pair in named for name in pair}):
        if name in recorded and name not in given:
            found[name] = int(recorded[name])
            continue
        try:
            own = tokens(words[name], prompts)
        except ActstoreError as error:
            if name in given:
                raise
            say(f"no accuracy: the word of {name}: {error}")
            return None
        if name in given and (not own or own[0] == unknown):
            raise ActstoreError(f"--word {name}={given[name]}: {given[name]!r} is no word of the model's; give another")
        if not own or own[0] == unknown:
            say(f"no accuracy: {words[name]!r}, the word of {name}, is none of the model's; give --word {name}=WORD")
            return None
        if len(own) > 1:
            say(f"the word {words[name]!r} is {len(own)} tokens; the first stands for {name}")
        found[name] = own[0]
    same = sorted({pair for pair in named if pair[0] != pair[1] and found[pair[0]] == found[pair[1]]})
    for one, other in same:
        say(
            f"no accuracy: the words of {one} ({words[one]!r}) and {other} ({words[other]!r}) begin with the same "
            f"token, {found[one]}; give others: --word CLASS=WORD"
        )
    return None if same else found


def _prompts(store: Store) -> list[str]:
    """What the samples were asked with, with the end of a chat; nothing is said after an image that comes last."""
    if "prompt" not in store.plan.columns:
        return []
    asked, end = store.plan, str(store.run.get("chat_end") or "")
    if "prompt_order" in asked.columns and not end:
        asked = asked.filter(asked["prompt_order"] != "text-image")
    return [prompt + end for prompt in asked["prompt"].drop_nulls().unique(maintain_order=True)]
