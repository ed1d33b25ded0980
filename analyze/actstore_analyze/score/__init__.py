"""Scores of what a model said: visual questions, captions, yes-or-no and exact answers."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_analyze.score.captions import cider, cider_per_image
    from actstore_analyze.score.exact import YesNo, gqa_accuracy, mme_points, pope
    from actstore_analyze.score.ptb import ptb_tokens
    from actstore_analyze.score.vqa import normalised, vqa_accuracy, vqa_of_all

__all__ = [
    "YesNo",
    "cider",
    "cider_per_image",
    "gqa_accuracy",
    "mme_points",
    "normalised",
    "pope",
    "ptb_tokens",
    "vqa_accuracy",
    "vqa_of_all",
]

__getattr__, __dir__ = handed_on(
    __name__,
    __all__,
    "exact",
    cider="captions",
    cider_per_image="captions",
    normalised="vqa",
    ptb_tokens="ptb",
    vqa_accuracy="vqa",
    vqa_of_all="vqa",
)
