"""A judge behind any OpenAI-compatible endpoint: questions in words, with an image or without, and its replies."""

import base64
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from actstore.errors import ActstoreError

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Judge", "Question", "asked"]

KEY = "OPENAI_API_KEY"
IMAGE_TOKENS, REPLY_TOKENS, CHARACTERS_PER_TOKEN = 765, 90, 4  # for the estimate only
KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}


@dataclass(frozen=True)
class Question:
    """A text, and perhaps an image (the bytes of a JPEG, PNG, GIF or WebP file).

    `reads` finds what a reply says: None where it is not in the form that the text asks for.
    """

    text: str
    reads: Callable[[str], object] = field(compare=False)
    image: bytes | None = None

    @cached_property
    def key(self) -> str:
        """A name for the question: equal questions have equal names."""
        return hashlib.sha256(self.text.encode() + b"\0" + (self.image or b"")).hexdigest()[:32]

    @property
    def kind(self) -> str | None:
        """jpeg, png, gif or webp, by the image's first bytes."""
        return next((kind for start, kind in KINDS.items() if (self.image or b"").startswith(start)), None)

    @property
    def tokens(self) -> int:
        """About how many tokens go to the judge."""
        return (IMAGE_TOKENS if self.image else 0) + len(self.text) // CHARACTERS_PER_TOKEN

    @property
    def content(self) -> list[dict[str, object]]:
        """Text and image as the parts of one message."""
        text: dict[str, object] = {"type": "text", "text": self.text}
        if self.image is None:
            return [text]
        url = f"data:image/{self.kind};base64,{base64.b64encode(self.image).decode()}"
        return [text, {"type": "image_url", "image_url": {"url": url}}]


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

    def ask(self, question: Question) -> str:
        """The reply; one that is not in the form asked for only after all tries.

        Raises ActstoreError when the endpoint gives none.
        """
        for left in reversed(range(self.tries)):
            reply = self._reply(question)
            if reply is not None and (question.reads(reply) is not None or not left):
                return reply
        raise ActstoreError(f"{self._where} replied {self.tries} times with something else than a chat completion")

    def _reply(self, question: Question) -> str | None:
        """The text of one reply, None where it holds none. The client repeats what failed (429, 5xx, time-outs)."""
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                temperature=self.temperature,
                messages=cast("Any", [{"role": "user", "content": question.content}]),
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
) -> Iterator[tuple[Question, str]]:
    """Replies to questions as they come, several asked at once; the first failure ends it."""
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for question, reply in zip(questions, pool.map(judge.ask, questions), strict=True):
                advance()
                yield question, reply
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _line(message: str) -> str:
    return " ".join(message.split())[:200]
