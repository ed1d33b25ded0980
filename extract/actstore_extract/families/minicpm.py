"""MiniCPM-V 4.6, 4.7 and OCR: the patches of all slices of all images stand side by side in one picture.

Its processor gives (1, 3, patch, patches * patch): a batch joins them along the last axis, and `target_sizes` tell them
apart.
"""

from typing import ClassVar

from actstore_extract.families.generic import Generic


class MiniCPM(Generic):
    """The generic family but for how pictures share a batch."""

    name = "minicpm"
    architectures = (
        "MiniCPMOcrForConditionalGeneration",
        "MiniCPMV4_6ForConditionalGeneration",
        "MiniCPMV4_7ForConditionalGeneration",
    )
    along: ClassVar[dict[str, int]] = {"pixel_values": -1}


FAMILY = MiniCPM()
