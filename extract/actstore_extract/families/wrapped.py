"""What a family sees of the model that is of it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from actstore_extract.families.sample import Batch, Encoded, Prompt

__all__ = ["Wrapped"]


class Wrapped(Protocol):
    """A model with its processor, as `Model` wraps them."""

    module: PreTrainedModel
    processor: ProcessorMixin | PreTrainedTokenizerBase
    settings: Mapping[str, object]

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""

    @property
    def image_token_id(self) -> int | None:
        """Id of the image's placeholder."""

    @property
    def added(self) -> frozenset[int]:
        """Ids of the tokens that are no text."""

    @property
    def resampled(self) -> bool:
        """Whether image tokens are learned queries and no patches."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""

    def encode(self, prompt: Prompt) -> Encoded:
        """Tokens and layout of one sample."""

    def collate(self, encoded: Sequence[Encoded], *, left: bool = False) -> Batch:
        """Samples padded together."""
