"""Failures: what nobody expects of a sample is of that sample alone, unless it is of the device or of all of them."""

from dataclasses import dataclass

import torch

from actstore.errors import ActstoreError

__all__ = ["Failure", "Failures", "failure_of"]

_SAID = 300  # characters of what was raised


@dataclass(frozen=True)
class Failure:
    """What was raised, in one line, and whether it is for want of memory; the error itself would hold what it held."""

    text: str
    is_of_memory: bool = False


def failure_of(error: Exception) -> Failure:
    """The failure in words.

    >>> failure_of(IndexError("index out of range")).text
    'IndexError: index out of range'
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Failure("not enough memory", is_of_memory=True)
    return Failure(" ".join(f"{type(error).__name__}: {error}".split())[:_SAID])


class Failures:
    """Samples that failed one after the other; ActstoreError where so many did that it is not for what they are."""

    def __init__(self, device: torch.device, most: int) -> None:
        self.device, self.most, self.in_a_row = device, most, 0

    def none(self) -> None:
        """A sample ran."""
        self.in_a_row = 0

    def reason(self, failure: Failure, n_tokens: int) -> str:
        """Why a sample failed, once it did so alone."""
        self.in_a_row += 1
        if self.in_a_row >= self.most:
            raise ActstoreError(
                f"{self.in_a_row} samples in a row cannot be run, the last for: {failure.text}. Is there room "
                "for them on the device? The same command goes on"
            )
        remedy = ": take a larger device, device_map = 'auto' in [model], or smaller images"
        return f"{failure.text} ({n_tokens} tokens, alone){remedy if failure.is_of_memory else ''}"

    def check_device(self, failure: Failure) -> None:
        """ActstoreError where the device does nothing any more: after some errors a GPU is lost to its process."""
        try:
            torch.zeros(1, device=self.device).add_(1).item()
        except RuntimeError as error:
            raise ActstoreError(
                f"{self.device} does not answer any more after {failure.text}; the same command goes on"
            ) from error
