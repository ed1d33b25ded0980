"""Scores of what a model said: visual questions, captions, yes-or-no and exact answers."""

from actstore_analyze.scores.captions import cider, cider_per_image
from actstore_analyze.scores.exact import YesNo, gqa_accuracy, mme_points, pope
from actstore_analyze.scores.ptb import ptb_tokens
from actstore_analyze.scores.vqa import normalised, vqa_accuracy

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
]
