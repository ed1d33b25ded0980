"""The tokenizers of the demo: one token per word."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from actstore_extract.demo.captions import WORDS_OF_TEXT

__all__ = ["N_CODES", "fusion_tokenizer", "image_words", "mapped_tokenizer"]

N_CODES = 64


def image_words() -> tuple[str, ...]:
    """The names of the image tokens, spelled as Chameleon does: code 12 is IMGIMGBCZ."""
    return tuple(f"IMGIMG{''.join('ABCDEFGHIJ'[int(digit)] for digit in str(code))}Z" for code in range(N_CODES))


def fusion_tokenizer() -> PreTrainedTokenizerFast:
    """Words, image tokens and Chameleon's marks of image start and end."""
    marks = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}
    return tokenizer(marks, sep_token="<reserved08706>", more=image_words())  # noqa: S106


def mapped_tokenizer() -> PreTrainedTokenizerFast:
    """Words and the placeholder for an image."""
    return tokenizer({"image_token": "<image>"})


def tokenizer(
    marks: dict[str, str], *, sep_token: str | None = None, more: tuple[str, ...] = ()
) -> PreTrainedTokenizerFast:
    """One token per word; texts begin with `<s>`; `marks` become attributes such as `image_token_id`."""
    special = {"pad_token": "<pad>", "bos_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}
    if sep_token:
        special["sep_token"] = sep_token
    vocabulary = [*special.values(), *marks.values(), *more, *WORDS_OF_TEXT]
    backend = Tokenizer(
        models.WordLevel({word: token for token, word in enumerate(vocabulary)}, unk_token=special["unk_token"])
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocabulary.index("<s>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, extra_special_tokens=marks, **special)  # type: ignore[no-untyped-call]
