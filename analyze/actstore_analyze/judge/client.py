"""A judge behind any OpenAI-compatible endpoint: questions in words, with an image or without, and its replies."""

import base64
import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from actstore.errors import ActstoreError

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["Judge", "Question", "asked"]

KEY = "OPENAI_API_KEY"
IMAGE_TOKENS, REPLY_TOKENS, CHARACTERS_PER_TOKEN = 765, 90, 4  # for the estimate only
PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds after the first fault, doubled after each; and at most
PASSING = (408, 409, 429)  # of the statuses that refuse, those that may accept later; so may all from 500
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


class NoReplyError(Exception):
    """Why a request had no reply: what to say; whether another may have one; seconds to wait, if that was said."""

    def __init__(self, said: str, *, passing: bool = True, wait: float | None = None) -> None:
        super().__init__(said)
        self.passing, self.wait = passing, wait


@dataclass(frozen=True)
class Judge:
    """A model behind an endpoint. A question is sent `tries` times at most, with growing pauses between.

    That holds for every fault: refusals that pass (429, 5xx), no answer in time, replies that are none or unclear.
    A pause is as long as the endpoint asks for (Retry-After), up to a minute.
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
        return OpenAI(api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0)

    def ready(self) -> None:
        """Raise now what would keep it from asking: no key, no client."""
        assert self._client is not None

    def ask(self, question: Question) -> str:
        """The reply; one that is not in the form asked for only after all tries.

        Raises ActstoreError when the endpoint gives none.
        """
        for number in range(self.tries):
            last = number == self.tries - 1
            try:
                reply = self._reply(question)
            except NoReplyError as fault:
                if last or not fault.passing:
                    raise ActstoreError(f"{self._where}{fault}{f' ({self.tries} tries)' * fault.passing}") from None
                time.sleep(_pause(number, fault.wait))
                continue
            if last or question.reads(reply) is not None:
                return reply
            time.sleep(_pause(number))
        raise AssertionError("tries is at least 1")

    def _reply(self, question: Question) -> str:
        """The text of one reply to one request; raises NoReplyError where there is none."""
        import openai

        try:
            completion = self._client.chat.completions.create(
                model=self.model,
                temperature=self.temperature,
                messages=cast("Any", [{"role": "user", "content": question.content}]),
            )
            content: object = completion.choices[0].message.content
        except openai.APIStatusError as error:
            passing = error.status_code in PASSING or error.status_code >= 500
            said = f" refused: {error.status_code} {_line(error.message)}"
            raise NoReplyError(said, passing=passing, wait=_asked_for(error.response.headers)) from None
        except openai.APIConnectionError as error:
            raise NoReplyError(f": {_line(error.message)}") from None
        except (openai.OpenAIError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
            content = None  # not JSON, or JSON of another shape
        if not isinstance(content, str):
            raise NoReplyError(" replied with something else than a chat completion")
        return content

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


def _pause(number: int, wait: float | None = None) -> float:
    """Seconds to wait after try `number`: as asked for, else a time that doubles, a little of it by chance.

    >>> [0.375 <= _pause(number) / 2**number <= 0.5 for number in range(3)], _pause(3, 7.0), _pause(0, 1e9)
    ([True, True, True], 7.0, 60.0)
    """
    own = PAUSE * 2**number * random.uniform(0.75, 1)  # noqa: S311  many asked at once should not come back at once
    return min(own if wait is None else wait, LONGEST_PAUSE)


def _asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint asks to wait, in Retry-After or as OpenAI's servers say it; None where it does not.

    >>> _asked_for({"retry-after": "3"}), _asked_for({"retry-after-ms": "250"}), _asked_for({"retry-after": "soon"})
    (3.0, 0.25, None)
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with suppress(KeyError, ValueError):
            return max(0.0, float(headers[name]) * unit)
    with suppress(KeyError, ValueError):
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


def _line(message: str) -> str:
    return " ".join(message.split())[:200]
