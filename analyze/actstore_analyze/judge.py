"""A judge behind any OpenAI-compatible endpoint: does one of a few descriptions match what an image shows?"""

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from actstore.errors import ActstoreError

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Judge", "Question", "Verdict", "asked", "matched"]

KEY = "OPENAI_API_KEY"
IMAGE_TOKENS, REPLY_TOKENS, CHARACTERS_PER_TOKEN = 765, 90, 4  # for the estimate only
KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}

PROMPT = """You see an image and some short descriptions of concepts.

{descriptions}

First look for the objects, activities and high-level concepts that are central to the image. Then decide whether at
least one of the descriptions strongly matches one of them. A loose association is not a match.

Answer in exactly three lines:
Image description: one or two sentences
Match found: YES or NO
Explanation: one sentence"""


@dataclass(frozen=True)
class Question:
    """Descriptions to compare with an image (the bytes of a JPEG, PNG, GIF or WebP file)."""

    descriptions: tuple[str, ...]
    image: bytes

    @property
    def text(self) -> str:
        """What is asked."""
        listed = "\n".join(f"{number}. {text}" for number, text in enumerate(self.descriptions, 1))
        return PROMPT.format(descriptions=listed)

    @cached_property
    def key(self) -> str:
        """A name for the question: equal questions have equal names."""
        return hashlib.sha256(self.text.encode() + b"\0" + self.image).hexdigest()[:32]

    @property
    def kind(self) -> str | None:
        """jpeg, png, gif or webp, by its first bytes."""
        return next((kind for start, kind in KINDS.items() if self.image.startswith(start)), None)

    @property
    def tokens(self) -> int:
        """About how many tokens go to the judge."""
        return IMAGE_TOKENS + len(self.text) // CHARACTERS_PER_TOKEN


@dataclass(frozen=True)
class Verdict:
    """The judge's reply; match is None where it does not say YES or NO in the line asked for."""

    match: bool | None
    reply: str


@dataclass(frozen=True)
class Judge:
    """A model behind an endpoint. A question is sent `tries` times at most, with growing pauses between.

    The key comes from the environment (OPENAI_API_KEY); an endpoint of one's own (base_url) needs none.
    """

    model: str
    base_url: str | None = None
    tries: int = 5
    timeout: float = 60.0
    temperature: float = 0.001

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        key = os.environ.get(KEY) or ("none" if self.base_url else None)
        if key is None:
            raise ActstoreError(
                f"the judge needs a key: set {KEY}, or name an endpoint that needs none with --base-url"
            )
        return OpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=self.tries - 1)

    def ready(self) -> None:
        """Raise now what would keep it from asking: no key, no client."""
        assert self._client is not None

    def ask(self, question: Question) -> Verdict:
        """The verdict on a question; raises ActstoreError when the endpoint gives none after all tries."""
        for left in reversed(range(self.tries)):
            reply = self._reply(question)
            if reply is not None and (matched(reply) is not None or not left):
                return Verdict(matched(reply), reply)
        raise ActstoreError(f"{self._where} replied {self.tries} times with something else than a chat completion")

    def _reply(self, question: Question) -> str | None:
        """The text of one reply, None where it holds none. The client repeats what failed (429, 5xx, time-outs)."""
        import openai

        url = f"data:image/{question.kind};base64,{base64.b64encode(question.image).decode()}"
        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                temperature=self.temperature,
                messages=[
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": question.text},
                            {"type": "image_url", "image_url": {"url": url}},
                        ],
                    }
                ],
            )
            content: object = completion.choices[0].message.content
        except openai.APIStatusError as error:
            raise ActstoreError(f"{self._where} refused: {error.status_code} {_line(error.message)}") from None
        except openai.APIConnectionError as error:
            raise ActstoreError(f"{self._where}: {_line(error.message)} ({self.tries} tries)") from None
        except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError):
            return None  # not JSON, or JSON of another shape
        return content if isinstance(content, str) else None

    @property
    def _where(self) -> str:
        return f"the judge {self.model} at {self.base_url or 'the default endpoint'}"


def asked(
    judge: Judge, questions: Sequence[Question], *, at_once: int, advance: Callable[[], None]
) -> Iterator[tuple[Question, Verdict]]:
    """Verdicts on questions as they come, several asked at once; the first failure ends it."""
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for question, verdict in zip(questions, pool.map(judge.ask, questions), strict=True):
                advance()
                yield question, verdict
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def matched(reply: str) -> bool | None:
    """What a reply says after `Match found:`; None where it does not.

    >>> matched("Image description: a dog\\nMatch found: YES\\nExplanation: it is one"), matched("**Match found:** no")
    (True, False)
    >>> matched("I cannot see the image") is None
    True
    """
    line = re.search(r"match found\W*(yes|no)\b", reply, re.IGNORECASE)
    return line[1].lower() == "yes" if line else None


def _line(message: str) -> str:
    return " ".join(message.split())[:200]
