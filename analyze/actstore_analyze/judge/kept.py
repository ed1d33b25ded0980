"""The judge's answers, kept in the store so that no question is asked twice."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from actstore.progress import bar
from actstore.store import Store
from actstore_analyze.judge.client import REPLY_TOKENS, Judge, Question, asked
from actstore_analyze.study.selection import Say

__all__ = ["Judgements"]

MEASURE = "judge"
KEPT_EVERY = 100  # answers
SCHEMA = {"question": pl.String, "reply": pl.String}


@dataclass
class Judgements:
    """Replies by question, of one model and prompt, in any state of the store.

    again: those that are unclear are missing too.
    """

    store: Store
    judge: Judge
    prompt: str
    again: bool = False
    known: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for result in sorted(self.store.results(), key=lambda result: result.created):
            if result.measure == MEASURE and result.parameters == self._parameters:
                self.known |= dict(result.table().iter_rows())

    def reads(self, question: Question) -> object:
        """What the judge says to a question that it was asked; None where its reply is unclear."""
        return question.reads(self.known[question.key])

    def missing(self, questions: Sequence[Question]) -> list[Question]:
        """Those without an answer, each once."""
        return list({question.key: question for question in questions if self._is_missing(question)}.values())

    def _is_missing(self, question: Question) -> bool:
        return question.key not in self.known or (self.again and self.reads(question) is None)

    def ask(self, questions: Sequence[Question], *, at_once: int, say: Say) -> None:
        """Ask what is missing; what was answered is kept even if a later question fails."""
        missing = self.missing(questions)
        if not missing:
            return
        self.judge.ready()
        self._keep()  # a store that cannot keep answers would pay for them again
        fresh = 0
        try:
            with bar(len(missing), "answers") as progress:
                for question, reply in asked(self.judge, missing, at_once=at_once, advance=progress.advance):
                    self.known[question.key] = reply
                    fresh += 1
                    if fresh % KEPT_EVERY == 0:
                        self._keep()
        finally:
            self._keep()
            say(f"{fresh} of {len(missing)} questions answered and kept in {self.store}")

    def estimate(self, questions: Sequence[Question], price: tuple[float, float] | None = None) -> str:
        """How much is to be asked, in words; price: dollars for a million tokens in, and out."""
        missing = self.missing(questions)
        given, taken = sum(question.tokens for question in missing), REPLY_TOKENS * len(missing)
        text = (
            f"{len(missing):,} questions to {self.judge.model}, about {given:,} tokens in and {taken:,} out; "
            f"{len({question.key for question in questions}) - len(missing):,} are answered already"
        )
        if price is None:
            return text
        dollars = (given * price[0] + taken * price[1]) / 1e6
        return f"{text}; about {dollars:,.2f} dollars at {price[0]:g} and {price[1]:g} a million"

    @property
    def _parameters(self) -> dict[str, str]:
        return {"model": self.judge.model, "prompt": self.prompt, "temperature": str(self.judge.temperature)}

    def _keep(self) -> None:
        table = pl.DataFrame(list(self.known.items()), schema=SCHEMA, orient="row")
        self.store.save_result(MEASURE, table, self._parameters)
