"""Captions as the tokens of the Penn Treebank, as COCO's evaluation has them before CIDEr."""

import re

__all__ = ["ptb_tokens"]

# What pycocoevalcap leaves out of the tokens that CoreNLP 3.4.1 gives.
_MARKS = frozenset(("''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_PLAIN = str.maketrans({"“": '"', "”": '"', "’": "'", "‘": "'", "–": " -- ", "—": " -- "})
# A dot stays with initials and with these; anywhere else before a space it ends a sentence.
_ABBREVIATIONS = "mr|mrs|ms|dr|st|jr|sr|vs|etc|no|ave|mt|inc|co|corp|prof"
_OPENS = re.compile(r"(?<!\S)'(?=\w)(?!tis|twas|em\b|n\b|\d)")  # a quotation, no contraction
_ENDS = re.compile(rf"(?<!\.)\b(?!(?:{_ABBREVIATIONS}|[a-z])\.)([^\s.]+)\.(?=\s)")


def ptb_tokens(text: str) -> str:
    """The caption in lower case, its tokens joined by spaces, punctuation left out.

    NLTK's Treebank tokenizer, after dots that end a sentence inside the text and opening quotes are set apart; equal to
    pycocoevalcap 1.2 on ordinary captions (goldens), not on every rare mark.

    >>> ptb_tokens("A dog's (wet) nose. It isn't cold!")
    "a dog 's -lrb- wet -rrb- nose it is n't cold"
    """
    from nltk.tokenize import TreebankWordTokenizer  # most scores need none of it

    plain = text.translate(_PLAIN).lower()
    apart = _OPENS.sub('"', _ENDS.sub(r"\1 .", plain))
    tokens = TreebankWordTokenizer().tokenize(apart)
    return " ".join(_BRACKETS.get(token, token) for token in tokens if token not in _MARKS)
