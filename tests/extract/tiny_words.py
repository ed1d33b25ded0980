"""A tokenizer of a few words, for tiny models."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = [
    "this",
    "digit",
    "is",
    "a",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "zero",
    ":",
    ",",
    ".",
    "animal",
]


def tokenizer(
    specials: list[str], *, bos: str | None = "<s>", digits: bool = False, padding: str = "right", **named: str
) -> PreTrainedTokenizerFast:
    """A word tokenizer: `specials` first, then WORDS; `named` become attributes such as `image_token`.

    `bos` is put in front of every text; with `digits` each digit is a token; `padding` is the side to pad on.
    """
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *specials, *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    splits = [pre_tokenizers.WhitespaceSplit(), *([pre_tokenizers.Digits(individual_digits=True)] if digits else [])]
    words.pre_tokenizer = pre_tokenizers.Sequence(splits)
    if bos:
        words.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=named,
        padding_side=padding,
    )
