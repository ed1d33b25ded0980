"""Chameleon 7B and 34B: `<s> <racm3:break> image tokens <eoss> text`, or the text first.

The image tokens are VQ codes: `input_ids` hold a placeholder for each, the model looks the codes up itself.
"""

from collections.abc import Mapping
from typing import cast

import torch
from transformers import BatchFeature, ChameleonProcessor

from actstore_extract.families.family import Family
from actstore_extract.families.sample import LayoutError, Prompt
from actstore_extract.families.wrapped import Wrapped


class Chameleon(Family):
    """Both block orders: the 34B model's norms come after its sub-layers, which changes nothing out here."""

    name = "chameleon"
    architectures = ("ChameleonForConditionalGeneration",)
    wrapped = True
    # Without it the processor ends what is no chat with the separator of chats, and `last` would be that token.
    process_options = {"return_for_text_completion": True}  # noqa: RUF012

    def process(self, model: Wrapped, prompt: Prompt) -> BatchFeature:
        """LayoutError where the processor ends what is no chat with the separator of chats all the same."""
        given = super().process(model, prompt)
        separator = str(model.tokenizer.sep_token)
        is_own = prompt.chat or prompt.text.rstrip().endswith(separator)
        if not is_own and given["input_ids"][0, -1] == model.tokenizer.sep_token_id:
            raise LayoutError(f"the processor puts {separator} behind the text, as Transformers before 5.23 does")
        return given

    def n_image_tokens(self, model: Wrapped, inputs: Mapping[str, torch.Tensor]) -> int:  # noqa: ARG002
        """1024 in the published models."""
        return int(cast(ChameleonProcessor, model.processor).image_seq_length)

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """`<racm3:break>` and `<eoss>`."""
        processor = cast(ChameleonProcessor, model.processor)
        return frozenset({processor.image_start_token_id}), frozenset({processor.image_end_token_id})

    def ends_chats(self, model: Wrapped) -> str:
        """The separator of turns."""
        return str(model.tokenizer.sep_token)

    def never_said(self, model: Wrapped) -> list[int]:
        """Its image tokens: the published forward says text alone."""
        return list(model.module.model.vocabulary_mapping.image_tokens)


FAMILY = Chameleon()
