"""The question about features of autoencoders: does one of their descriptions match what an image shows?"""

import re
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.storage import local
from actstore_analyze.judge.client import Question

__all__ = ["PROMPTS", "matched", "question", "text_of"]

HOLE = "{descriptions}"
STRICT = """You see an image and some short descriptions of concepts.

{descriptions}

First look for the objects, activities and high-level concepts that are central to the image. Then decide whether at
least one of the descriptions strongly matches one of them. A loose association is not a match.

Answer in exactly three lines:
Image description: one or two sentences
Match found: YES or NO
Explanation: one sentence"""

ANY = """You see an image and what some features of a sparse autoencoder are said to stand for.

{descriptions}

Say in short what the image shows: every object and activity, high-level concepts and the like. After that, say whether
any one of the features stands for a key concept among these.

Answer in exactly this form:
Image description: one or two sentences

Match found: YES or NO
Explanation: one sentence on which of them do, or why none does"""

# strict: as the paper says, a strong match. any: built as the authors' code asks, in other words: the image is
# described whole, and nothing is said of how strong a match has to be. Theirs puts descriptions into quotation marks.
PROMPTS = {"strict": STRICT, "any": ANY}


def text_of(prompt: str) -> str:
    """The text of a prompt: one of PROMPTS by its name, else a file's. ActstoreError for a file that has no place for
    the descriptions, or does not ask for the line that is read."""
    if prompt in PROMPTS:
        return PROMPTS[prompt]
    try:
        text = TextIOWrapper(BytesIO(local.content(Path(prompt))), encoding="utf-8").read()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(PROMPTS)
        raise ActstoreError(f"--prompt {prompt} is neither a text file nor one of {known}: {error}") from None
    for needed, why in ((HOLE, "where the descriptions go"), ("Match found:", "the line that is read of a reply")):
        if needed not in text:
            raise ActstoreError(f"{prompt} has no {needed!r}, {why}")
    return text


def question(descriptions: Sequence[str], image: bytes, prompt: str = STRICT) -> Question:
    """Whether at least one description matches the image (the bytes of a JPEG, PNG, GIF or WebP file)."""
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(descriptions, 1))
    return Question(prompt.replace(HOLE, listed), matched, image)


def matched(reply: str) -> bool | None:
    """What a reply says after `Match found:`; None where it does not.

    >>> matched("Image description: a dog\\nMatch found: YES\\nExplanation: it is one"), matched("**Match found:** no")
    (True, False)
    >>> matched("I cannot see the image") is None
    True
    """
    line = re.search(r"match found\W*(yes|no)\b", reply, re.IGNORECASE)
    return line[1].lower() == "yes" if line else None
