"""MME: fourteen tasks of yes-or-no questions, two about each image, as MME_Benchmark_release_version has them.

path/existence/000000006040.jpg           a line of the text file beside it: QUESTION<tab>Yes
path/existence/000000006040.txt
path/posters/images/tt0048028.jpg         some tasks keep images and texts apart
path/posters/questions_answers_YN/tt0048028.txt
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field

from actstore_extract.pictures import open_image
from actstore_extract.samples.files import folder, read_lines
from actstore_extract.samples.imagefolder import hidden
from actstore_extract.samples.source import Samples, SamplesError, Source

__all__ = ["Mme"]

_ORIGIN = (
    "MME's release (MME_Benchmark_release_version, of branch Evaluation of "
    "https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models)"
)
_ASKED = " Please answer yes or no."  # which ends every question, and lmms-eval puts its own sentence there
_IMAGES = (".jpg", ".png", ".jpeg")
_TASKS = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)


class Mme(Source):
    """MME: yes-or-no questions, two about each picture; all tasks that the folder has."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["mme"]
    path: Annotated[Path, Field(examples=["/data/MME_Benchmark_release_version"])]
    """The folder with a folder for each task."""

    def everything(self) -> Samples:
        """sample_id = TASK/IMAGE/N (N is 1 or 2), image = its path, question, question_alone (without "Please answer
        yes or no."), label (yes or no), split = the task."""
        root = folder(self.path, _ORIGIN)
        rows = [row for task in _TASKS for text in _texts(root / task) for row in _questions(root, task, text)]
        if not rows:
            raise SamplesError(f"{root} has none of the tasks {', '.join(_TASKS)}: get it from {_ORIGIN}")
        table = pl.DataFrame(rows, schema=["sample_id", "image", "question", "label", "split"], orient="row")
        alone = pl.col("question").str.replace_all(_ASKED, "", literal=True)
        table = table.insert_column(3, table.select(alone.alias("question_alone")).to_series())
        return Samples(table, lambda name: open_image(root / name))


def _texts(task: Path) -> list[Path]:
    """The text files of a task."""
    apart = task / "questions_answers_YN"
    return sorted(path for path in (apart if apart.is_dir() else task).glob("*.txt") if not hidden(path.name))


def _questions(root: Path, task: str, text: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """The two questions about an image."""
    lines = [line.rstrip().split("\t") for line in read_lines(text) if line.strip()]
    if len(lines) != 2 or any(len(line) != 2 or line[1].strip().lower() not in ("yes", "no") for line in lines):
        raise SamplesError(f"{text} is not of {_ORIGIN}: it has two lines, each a question, a tab, and Yes or No")
    image = _image(root / task, text).relative_to(root).as_posix()
    for number, (question, label) in enumerate(lines, 1):
        yield f"{task}/{text.stem}/{number}", image, question.strip(), label.strip().lower(), task


def _image(task: Path, text: Path) -> Path:
    """The image that a text file is about."""
    places = (task / "images", task)
    found = [path for place in places for suffix in _IMAGES if (path := place / f"{text.stem}{suffix}").is_file()]
    if not found:
        raise SamplesError(f"{text} has no image: {places[0] / text.stem}.jpg, or in {task}; get it from {_ORIGIN}")
    return found[0]
