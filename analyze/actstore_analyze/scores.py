"""The name that `actstore_analyze.score` has had since 0.1."""

from actstore_analyze.score import (
    YesNo,
    cider,
    cider_per_image,
    gqa_accuracy,
    mme_points,
    normalised,
    pope,
    ptb_tokens,
    vqa_accuracy,
)

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
