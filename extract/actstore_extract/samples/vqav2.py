"""VQAv2: questions and ten answers each, on COCO's images.

path/v2_OpenEnded_mscoco_val2014_questions.json
path/v2_mscoco_val2014_annotations.json       answers; there is none for test2015
path/val2014/COCO_val2014_000000262148.jpg
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from actstore_extract.pictures import open_image
from actstore_extract.samples.files import first_file, folder, read_json
from actstore_extract.samples.source import Samples, SamplesError, Source

__all__ = ["Vqav2"]

_ORIGIN = "VQA v2's download page (https://visualqa.org/download.html)"
_IMAGES = {"test-dev2015": "test2015"}  # a subset, whose images are those of the whole


class _Question(TypedDict):
    question_id: int
    image_id: int
    question: str


class _Questions(TypedDict):
    questions: list[_Question]


class _Answer(TypedDict):
    answer: str
    answer_id: int


class _Annotation(TypedDict):
    question_id: int
    question_type: str
    answer_type: str
    multiple_choice_answer: str
    answers: list[_Answer]


class _Annotations(TypedDict):
    annotations: list[_Annotation]


class Vqav2(Source):
    """VQA v2: questions with ten answers each, on COCO's pictures."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["vqav2"]
    path: Annotated[Path, Field(examples=["/data/vqav2"])]
    """The folder with questions, annotations and COCO's val2014."""
    split: Annotated[Literal["train2014", "val2014", "test2015", "test-dev2015"], Field(examples=["train2014"])] = (
        "val2014"
    )
    """Which part; of test2015 no answers are public."""

    def everything(self) -> Samples:
        """sample_id = the question's id, image = SPLIT/FILE, question_id, image_id, question; of the annotations:
        answers (a list of ten), answer (the most frequent), answer_type, question_type."""
        root = folder(self.path, "the folder with VQA v2's questions and COCO's images")
        table = self._questions(root)
        if not self.split.startswith("test"):
            table = table.join(self._answers(root), on="question_id", how="left", maintain_order="left")
        if not table.height:
            raise SamplesError(f"{root} has no questions of {self.split}")
        return Samples(table, lambda name: open_image(root / name), root)

    def _questions(self, root: Path) -> pl.DataFrame:
        file = self._file(root, "v2_OpenEnded_mscoco_{}_questions.json")
        questions = read_json(file, _Questions, _ORIGIN)["questions"]
        images = _IMAGES.get(self.split, self.split)
        columns = {
            "sample_id": [str(one["question_id"]) for one in questions],
            "question_id": [one["question_id"] for one in questions],
            "image_id": [one["image_id"] for one in questions],
            "question": [one["question"] for one in questions],
            "image": [f"{images}/COCO_{images}_{one['image_id']:012d}.jpg" for one in questions],
        }
        return pl.DataFrame(columns, schema_overrides={"sample_id": pl.String, "question_id": pl.Int64})

    def _answers(self, root: Path) -> pl.DataFrame:
        file = self._file(root, "v2_mscoco_{}_annotations.json")
        rows = read_json(file, _Annotations, _ORIGIN)["annotations"]
        columns = {
            "question_id": [row["question_id"] for row in rows],
            "answers": [[one["answer"] for one in sorted(row["answers"], key=_number)] for row in rows],
            "answer": [row["multiple_choice_answer"] for row in rows],
            "answer_type": [row["answer_type"] for row in rows],
            "question_type": [row["question_type"] for row in rows],
        }
        return pl.DataFrame(columns, schema_overrides={"question_id": pl.Int64, "answers": pl.List(pl.String)})

    def _file(self, root: Path, name: str) -> Path:
        """The file, in the folder itself or in its annotations."""
        name = name.format(self.split)
        return first_file(root, (name, f"annotations/{name}"), _ORIGIN)


def _number(answer: _Answer) -> int:
    return answer["answer_id"]
