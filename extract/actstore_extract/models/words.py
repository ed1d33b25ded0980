"""A tokenizer of words for each kind: its special tokens, some words, and names up to the size of the vocabulary."""

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from actstore_extract.models.kind import Kind
from actstore_extract.models.small import N_WORDS

__all__ = ["tokenizer"]

_WORDS = [
    *("this", "digit", "is", "a", "animal", ":", ",", ".", ";", "?", "user", "assistant", "system", "image"),
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "zero"),
]
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_ROOM = 40  # some processors add tokens of their own


def tokenizer(kind: Kind) -> PreTrainedTokenizerFast:
    """Splits at spaces and special tokens; ids 0 to 3 are pad, begin, end and unknown."""
    specials = list(dict.fromkeys([*kind.tokens.values(), *kind.others]))
    named = [*_SPECIAL.values(), *specials, *_WORDS]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(named))}
    vocabulary.update({f"w{i}": i for i in range(len(vocabulary), N_WORDS - _ROOM)})
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL["unk_token"]))
    words.pre_tokenizer = pre_tokenizers.Sequence(list(_splits(kind)))
    if kind.bos:
        words.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A",
            pair=f"{kind.bos} $A {kind.bos} $B",
            special_tokens=[(kind.bos, vocabulary[kind.bos])],
        )
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        extra_special_tokens=dict(kind.tokens),
        **_SPECIAL,
    )


def _splits(kind: Kind) -> Iterable[pre_tokenizers.PreTokenizer]:
    yield pre_tokenizers.WhitespaceSplit()
    if "0" in kind.others:
        yield pre_tokenizers.Digits(individual_digits=True)
