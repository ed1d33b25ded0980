"""GQA: questions about scenes, each with one short answer.

path/testdev_balanced_questions.json     of GQA's questions1.2; any other SPLIT_questions.json as well
path/images/n161313.jpg
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, NotRequired

import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from actstore_extract.pictures import open_image
from actstore_extract.samples.files import first_file, folder, read_json
from actstore_extract.samples.source import Samples, SamplesError, Source

__all__ = ["Gqa"]

_ORIGIN = "GQA's download page, questions1.2 (https://cs.stanford.edu/people/dorarad/gqa/download.html)"


class _Types(TypedDict):
    structural: str | None
    semantic: str | None


class _Question(TypedDict):
    question: str
    imageId: str
    answer: NotRequired[str | None]
    types: NotRequired[_Types | None]


class Gqa(Source):
    """GQA: questions about scenes, each with one short answer."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["gqa"]
    path: Annotated[Path, Field(examples=["/data/gqa"])]
    """The folder with the questions and with images."""
    split: Annotated[str, Field(examples=["val_balanced"])] = "testdev_balanced"
    """Which file SPLIT_questions.json; that of a split without answers (test) has none to be scored by."""

    def everything(self) -> Samples:
        """sample_id = the question's id, image = images/FILE, question, answer, question_type (structural) and
        semantic_type; what a split does not say is NULL."""
        root = folder(self.path, "the folder with GQA's questions and images")
        name = f"{self.split}_questions.json"
        file = first_file(root, (name, f"questions1.2/{name}", f"questions/{name}"), _ORIGIN)
        questions = read_json(file, dict[str, _Question], _ORIGIN)
        if not questions:
            raise SamplesError(f"{file} has no questions")
        rows = [
            (key, f"images/{one['imageId']}.jpg", one["question"], one.get("answer"), *_types(one))
            for key, one in questions.items()
        ]
        columns = ("sample_id", "image", "question", "answer", "question_type", "semantic_type")
        kinds = dict.fromkeys(columns, pl.String)
        return Samples(pl.DataFrame(rows, schema=kinds, orient="row"), lambda name: open_image(root / name))


def _types(question: _Question) -> tuple[str | None, str | None]:
    types = question.get("types")
    return (types["structural"], types["semantic"]) if types else (None, None)
