"""LLaVA's conversations: llava_v1_5_mix665k.json, llava_instruct_150k.json, blip_laion_cc_sbu_558k.json and their like.

[{"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": [
    {"from": "human", "value": "<image>\\nWhat are the colors of the bus?"}, {"from": "gpt", "value": "White."}, ...]}]

Conversations without an image, which the mix has too, are no samples.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
from pydantic import Field
from typing_extensions import TypedDict

from actstore_extract.pictures import MARKER, open_image
from actstore_extract.samples.files import read_json
from actstore_extract.samples.source import Samples, SamplesError, Source

__all__ = ["Llava"]

_ORIGIN = "LLaVA's releases (https://huggingface.co/liuhaotian)"

_Turn = TypedDict("_Turn", {"from": str, "value": str})


class Llava(Source):
    """LLaVA's conversations about pictures, of which the first question and answer are taken."""

    origin: ClassVar[str] = _ORIGIN

    source: Literal["llava"]
    path: Annotated[Path, Field(examples=["/data/llava_instruct_150k.json"])]
    """The JSON file."""
    images: Annotated[Path | None, Field(examples=["/data/coco/train2017"])] = None
    """The folder that its images are relative to; without it the file's own."""

    def everything(self) -> Samples:
        """sample_id = NUMBER/id, because ids repeat (NUMBER counts conversations from 0), image, conversation_id,
        question and answer: the first of each, without the images' markers; turns: how many there are of both."""
        records = read_json(self.path, list[dict[str, Any]], _ORIGIN)
        rows = [_row(number, one, self.path) for number, one in enumerate(records) if one.get("image")]
        if not rows:
            raise SamplesError(f"{self.path} has no conversation about an image")
        images = self.images or self.path.parent
        table = pl.DataFrame(rows, schema_overrides={"conversation_id": pl.String})
        return Samples(table, lambda name: open_image(images / name))


def _row(number: int, record: dict[str, Any], path: Path) -> dict[str, object]:
    """One conversation as a sample."""
    try:
        turns: list[_Turn] = record["conversations"]
        spoken = {who: [turn["value"] for turn in turns if turn["from"] == who] for who in ("human", "gpt")}
        question, answer = spoken["human"][0], spoken["gpt"][0]
        if not isinstance(question, str) or not isinstance(answer, str):
            raise TypeError(f"{(question, answer)} are not both texts")
        return {
            "sample_id": f"{number:06d}/{record['id']}",
            "conversation_id": None if record["id"] is None else str(record["id"]),
            "question": question.replace(MARKER, "").strip(),
            "answer": answer.strip(),
            "turns": len(turns),
            "image": [str(one) for one in images] if isinstance(images := record["image"], list) else [str(images)],
        }
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise SamplesError(
            f"{path}: conversation {number} is not of {_ORIGIN}: {type(error).__name__}: {error}"
        ) from None
