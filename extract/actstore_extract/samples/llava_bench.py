"""LLaVA-Bench (in the wild): open questions about pictures, with the answers of a text model to compare with.

path/questions.jsonl        {"question_id": 0, "image": "001.jpg", "text": "What is ...?", "category": "conv"}
path/context.jsonl          {"id": "001", "image": "001.jpg", "caption": "..."}, what the judge knows of the image
path/answers_gpt4.jsonl     {"question_id": 0, "text": "..."}, the reference
path/images/001.jpg
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from actstore_extract.pictures import open_image
from actstore_extract.samples.files import folder, read_json_lines
from actstore_extract.samples.source import Samples, SamplesError, Source

__all__ = ["LlavaBench"]

_ORIGIN = "liuhaotian/llava-bench-in-the-wild (https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild)"


class _Question(TypedDict):
    question_id: int
    image: str
    text: str
    category: str


class _Context(TypedDict):
    image: str
    caption: str


class _Answer(TypedDict):
    question_id: int
    text: str


class LlavaBench(Source):
    """LLaVA-Bench (in the wild): open questions about pictures, with a reference answer each."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["llava-bench"]
    path: Annotated[Path, Field(examples=["/data/llava-bench"])]
    """The folder with questions.jsonl, context.jsonl, answers_gpt4.jsonl and images."""

    def everything(self) -> Samples:
        """sample_id = the question's id, image, question, answer (the reference), context (the image in words), split =
        the category: conv, detail or complex."""
        root = folder(self.path, "the folder with LLaVA-Bench's questions and images")
        questions = read_json_lines(root / "questions.jsonl", _Question, _ORIGIN)
        contexts = {one["image"]: one["caption"] for one in read_json_lines(root / "context.jsonl", _Context, _ORIGIN)}
        answers = {
            one["question_id"]: one["text"] for one in read_json_lines(root / "answers_gpt4.jsonl", _Answer, _ORIGIN)
        }
        for one in questions:
            if one["question_id"] not in answers or one["image"] not in contexts:
                lacks = "answers_gpt4" if one["question_id"] not in answers else "context"
                raise SamplesError(f"{root}: {lacks}.jsonl lacks question {one['question_id']}; get it from {_ORIGIN}")
        columns = {
            "sample_id": [str(one["question_id"]) for one in questions],
            "image": [one["image"] for one in questions],
            "question": [one["text"] for one in questions],
            "answer": [answers[one["question_id"]] for one in questions],
            "context": [contexts[one["image"]] for one in questions],
            "split": [one["category"].removeprefix("llava_bench_") for one in questions],
        }
        return Samples(pl.DataFrame(columns), lambda name: open_image(root / "images" / name))
