"""Reviews: a judge that rates what the model said beside a reference, as LLaVA-Bench has it."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from actstore.store import Store
from actstore_analyze.judge.asking import Judging
from actstore_analyze.judge.client import Question
from actstore_analyze.score.study import Scored
from actstore_analyze.study.selection import Say

__all__ = ["Reviewed", "rated"]

RULE = """We would like to request your feedback on the performance of two AI assistants in response to the user \
question displayed above. The user asks the question on observing an image. For your reference, the visual content in \
the image is represented with a few sentences describing the image. 
Please rate the helpfulness, relevance, accuracy, level of details of their responses. Each assistant receives an \
overall score on a scale of 1 to 10, where a higher score indicates better overall performance.
Please first output a single line containing only two values indicating the scores for Assistant 1 and 2, \
respectively. The two scores are separated by a space.
In the subsequent line, please provide a comprehensive explanation of your evaluation, avoiding any potential bias and \
ensuring that the order in which the responses were presented does not affect your judgment."""  # noqa: W291  LLaVA's

PROMPT = (
    "[Context]\n{context}\n\n[Question]\n{question}\n\n[Assistant 1]\n{reference}\n\n[End of Assistant 1]\n\n"
    "[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n[System]\n" + RULE + "\n\n"
)
RATINGS = {"reference_rating": pl.Float64, "rating": pl.Float64}


@dataclass(frozen=True, kw_only=True)
class Reviewed(Judging, Scored):
    """A call of `actstore score --task llava-bench`: what is scored, and who rates it.

    The rule is the one that LLaVA's authors published (llava_bench, Apache-2.0).
    """

    temperature: float = 0.2

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result."""
        return self.kept(super().parameters)

    def command(self, store: Path | str) -> str:
        """The command line of the call."""
        return f"{super().command(store)} {shlex.join(['--judge', self.judge])}"

    def samples(self, store: Store, *, say: Say) -> pl.DataFrame:
        """Those of the task, with what the judge says of each: rating and reference_rating, NULL where unclear."""
        found = super().samples(store, say=say)
        questions, judged = _questions(found), self.judgements(store, PROMPT)
        say(judged.estimate(questions, self.price))
        judged.ask(questions, at_once=self.at_once, say=say)
        ratings = [judged.reads(one) or (None, None) for one in questions]
        return found.with_columns(pl.DataFrame(ratings, schema=RATINGS, orient="row"))

    def estimate(self, store: Store, *, say: Say) -> str:
        """How much is to be asked, in words."""
        return self.judgements(store, PROMPT).estimate(_questions(super().samples(store, say=say)), self.price)


def _questions(samples: pl.DataFrame) -> list[Question]:
    """A question for each sample: which of reference and answer is how good."""
    rows = samples.select("context", "question", "truth", "said").iter_rows()
    return [
        Question(PROMPT.format(context=context, question=question, reference=" ".join(truth), answer=said), rated)
        for context, question, truth, said in rows
    ]


def rated(reply: str) -> tuple[float, float] | None:
    """The two ratings, 1 to 10 as asked for, in the first line of a reply; None where it has no two.

    >>> rated("8 6.5\\nAssistant 1 is better."), rated("9, 10"), rated("Both are good."), rated("0 0")
    ((8.0, 6.5), (9.0, 10.0), None, None)
    """
    first = reply.strip().partition("\n")[0]
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", first)]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and all(1 <= one <= 10 for one in numbers) else None
