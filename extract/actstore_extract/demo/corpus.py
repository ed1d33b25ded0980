"""What the models learn from: distorted copies of the train split, and what is said of them."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from actstore_extract.demo.captions import Captions, captions
from actstore_extract.demo.copies import copies, pixel_values
from actstore_extract.demo.traits import bounds, traits
from actstore_extract.samples.digits import Scans

__all__ = ["N_COPIES", "Corpus", "captions_of", "corpus"]

N_COPIES = 12


@dataclass(frozen=True)
class Corpus:
    """`images` (n, 3, 8, 8) as the processors give them, and what is said of each."""

    images: torch.Tensor
    captions: Captions


def corpus(scans: Scans, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> Corpus:
    """`N_COPIES` of every scan of the train split; no other split is looked at."""
    drawn = copies(scans, scans.indices("train"), N_COPIES, rng)
    return Corpus(pixel_values(drawn.pixels), said_of(drawn.pixels, drawn.labels, scans, tokenizer))


def captions_of(scans: Scans, split: str, tokenizer: PreTrainedTokenizerFast) -> Captions:
    """What is said of the scans of one split."""
    rows = scans.indices(split)
    return said_of(scans.pixels[rows].astype(np.float32), scans.labels[rows], scans, tokenizer)


def said_of(
    pixels: NDArray[np.float32], labels: NDArray[np.int64], scans: Scans, tokenizer: PreTrainedTokenizerFast
) -> Captions:
    """Captions of scans (n, 8, 8); light, narrow and the like are thirds of the train split, whatever the scan."""
    thirds = bounds(scans.pixels[scans.indices("train")].astype(np.float32))
    return captions(labels, traits(pixels, thirds), tokenizer.get_vocab())
