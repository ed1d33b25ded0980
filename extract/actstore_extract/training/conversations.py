"""Conversations to learn from: LLaVA's JSON with all its turns, or a prompt and an answer made of a sample's columns.

[{"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
    {"from": "human", "value": "<image>\\nWhat are the colors of the bus?"}, {"from": "gpt", "value": "White."}, ...]}]
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl

from actstore_extract.pictures import MARKER, open_image
from actstore_extract.recipe.prompts import texts
from actstore_extract.samples import Samples, SamplesError, Source
from actstore_extract.samples.files import read_json

__all__ = ["HUMAN", "MODEL", "Conversation", "Conversations", "Turn", "asked", "conversation", "n_markers", "problem"]

_ORIGIN = "LLaVA's releases (liuhaotian on the Hugging Face hub)"
HUMAN, MODEL = "human", "gpt"
_TURNS = pl.List(pl.Struct({"who": pl.String, "text": pl.String}))
_SCHEMA = pl.Schema({"sample_id": pl.String(), "image": pl.String(), "turns": _TURNS})


class Turn(NamedTuple):
    """What one side says."""

    who: str
    text: str


class Conversation(NamedTuple):
    """Turns of a human and the model; "<image>" stands in the one that has the image."""

    sample_id: str
    turns: tuple[Turn, ...]
    image: str | None


class Conversations(Source):
    """path is the JSON file, `images` the folder that its images are relative to (default: the file's own)."""

    source: Literal["llava"]
    path: Path
    images: Path | None = None

    def everything(self) -> Samples:
        """sample_id = NUMBER/id, because ids repeat (NUMBER counts conversations from 0), image or NULL, turns: a list
        of who and text, empty for a conversation that is not of LLaVA's form."""
        records = read_json(self.path, list[dict[str, Any]], _ORIGIN)
        if not records:
            raise SamplesError(f"{self.path} has no conversations")
        rows = [(f"{i:06d}/{one.get('id')}", _image(one), _turns(one)) for i, one in enumerate(records)]
        folder = self.images or self.path.parent
        table = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
        return Samples(table, lambda name: open_image(folder / name), folder)


def _image(record: dict[str, Any]) -> str | None:
    """Its name; what is no name, such as a list of several, as the file that is missed."""
    image = record.get("image") or None
    return image if image is None else str(image)


def _turns(record: dict[str, Any]) -> list[dict[str, str]]:
    try:
        return [_turn(turn["from"], turn.get("value")) for turn in record["conversations"]]
    except (AttributeError, KeyError, TypeError):
        return []


def _turn(who: object, text: object) -> dict[str, str]:
    """A turn; what is no text (null, a number, a list) is no answer of a model, and from a human a TypeError."""
    if isinstance(who, str) and isinstance(text, str):
        return {"who": who, "text": text}
    if who == MODEL:
        return {"who": MODEL, "text": ""}
    raise TypeError


def asked(samples: Samples, prompt: str, answer: str, where: str) -> Samples:
    """Samples of any source as conversations of two turns; `where` the recipe has the two texts, for errors."""
    questions = texts(prompt, samples.table, f"{where} prompt")
    answers = texts(answer, samples.table, f"{where} answer")
    turns = [
        [{"who": HUMAN, "text": question}, {"who": MODEL, "text": said}]
        for question, said in zip(questions, answers, strict=True)
    ]
    shown = [MARKER in question + said for question, said in zip(questions, answers, strict=True)]
    table = samples.table.select(
        pl.col("sample_id"),
        pl.when(pl.Series(shown, dtype=pl.Boolean)).then(pl.col("image").cast(pl.String)).alias("image"),
        pl.Series("turns", turns, _TURNS),
    )
    return Samples(table, samples.image, samples.folder)


def conversation(row: Sequence[Any]) -> Conversation:
    """A row of the table: sample_id, image, turns."""
    sample_id, image, turns = row
    return Conversation(sample_id, tuple(Turn(turn["who"], turn["text"]) for turn in turns), image)


def problem(said: Conversation) -> str | None:
    """Why a conversation cannot be learned from, if so.

    >>> problem(Conversation("1", (Turn("human", "What is this?"),), None))
    'no answer'
    >>> problem(Conversation("1", (Turn("human", "<image>What is this?"), Turn("gpt", "A dog.")), None))
    '<image> in the text but no image'
    """
    who = [turn.who for turn in said.turns]
    if not who:
        return f"not of the form of {_ORIGIN}"
    if any(one not in (HUMAN, MODEL) for one in who):
        return f"a turn is from {next(one for one in who if one not in (HUMAN, MODEL))!r}, not {HUMAN} or {MODEL}"
    if MODEL not in who or any(turn.who == MODEL and not turn.text.strip() for turn in said.turns):
        return "no answer"
    if who != [HUMAN, MODEL] * (len(who) // 2):
        return f"turns do not alternate: {', '.join(who[:4])}{' ...' if len(who) > 4 else ''}"
    return _placeholders(said)


def n_markers(said: Conversation) -> int:
    """How often the image's marker is in the text."""
    return sum(turn.text.count(MARKER) for turn in said.turns)


def _placeholders(said: Conversation) -> str | None:
    count = n_markers(said)
    if said.image is None:
        return f"{MARKER} in the text but no image" if count else None
    if count != 1:
        return f"{count} {MARKER} in the text for one image"
    return None
