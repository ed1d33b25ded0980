"""The question about features of autoencoders: does one of their descriptions match what an image shows?"""

import re
from collections.abc import Sequence

from actstore_analyze.judge.client import Question

__all__ = ["PROMPT", "matched", "question"]

PROMPT = """You see an image and some short descriptions of concepts.

{descriptions}

First look for the objects, activities and high-level concepts that are central to the image. Then decide whether at
least one of the descriptions strongly matches one of them. A loose association is not a match.

Answer in exactly three lines:
Image description: one or two sentences
Match found: YES or NO
Explanation: one sentence"""


def question(descriptions: Sequence[str], image: bytes) -> Question:
    """Whether at least one description matches the image (the bytes of a JPEG, PNG, GIF or WebP file)."""
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(descriptions, 1))
    return Question(PROMPT.format(descriptions=listed), matched, image)


def matched(reply: str) -> bool | None:
    """What a reply says after `Match found:`; None where it does not.

    >>> matched("Image description: a dog\\nMatch found: YES\\nExplanation: it is one"), matched("**Match found:** no")
    (True, False)
    >>> matched("I cannot see the image") is None
    True
    """
    line = re.search(r"match found\W*(yes|no)\b", reply, re.IGNORECASE)
    return line[1].lower() == "yes" if line else None
