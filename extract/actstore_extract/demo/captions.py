"""What the models read about a scan: sentences and single-word tags, as token ids."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actstore_extract.samples.digits import WORDS

__all__ = ["SENTENCES", "WORDS_OF_TEXT", "Captions", "captions"]

# Row d of "digit", "parity", "size" and "next" is what is said of digit d; the rest are measured traits 0, 1, 2.
SENTENCES: dict[str, tuple[str, ...]] = {
    "digit": tuple(f"this digit is a {word} ." for word in WORDS),
    "parity": tuple(f"this is {('even', 'odd')[digit % 2]} ." for digit in range(10)),
    "size": tuple(f"this is {('small', 'large')[digit // 5]} ." for digit in range(10)),
    "next": tuple(f"after this comes {word} ." for word in (*WORDS[1:], "ten")),
    "ink": ("this ink is light .", "this ink is medium .", "this ink is heavy ."),
    "loops": ("this has no loop .", "this has one loop .", "this has two loops ."),
    "slant": ("this leans left .", "this stands upright .", "this leans right ."),
    "width": ("this looks narrow .", "this looks average .", "this looks wide ."),
}
TAGS: dict[str, tuple[str, ...]] = {
    "digit": WORDS,
    "parity": tuple(("even", "odd")[digit % 2] for digit in range(10)),
    "size": tuple(("small", "large")[digit // 5] for digit in range(10)),
    "ink": ("light", "medium", "heavy"),
    "loops": ("no", "loop", "loops"),
    "slant": ("left", "upright", "right"),
    "width": ("narrow", "average", "wide"),
}
OF_THE_DIGIT = ("digit", "parity", "size", "next")
MEASURED = ("ink", "loops", "slant", "width")
WORDS_OF_TEXT: tuple[str, ...] = tuple(
    sorted({word for kind in SENTENCES.values() for sentence in kind for word in sentence.split()} | {":"})
)


@dataclass(frozen=True)
class Captions:
    """Token ids about n scans: `sentences[kind][row]` of scan i is given by `rows[i, kind]`; `tags` (n, 7)."""

    sentences: list[list[list[int]]]
    rows: NDArray[np.int64]
    tags: NDArray[np.int64]

    def text(self, i: int, rng: np.random.Generator, *, sizes: tuple[int, int], digit_first: float = 0.0) -> list[int]:
        """Different sentences about scan `i`, in random order, from `sizes[0]` to `sizes[1]` of them.

        With probability `digit_first` the sentence that names the digit comes first.
        """
        kinds = rng.permutation(len(self.sentences))[: rng.integers(sizes[0], sizes[1] + 1)].tolist()
        if rng.random() < digit_first:
            kinds = [0, *(kind for kind in kinds if kind != 0)]
        return [token for kind in kinds for token in self.sentences[kind][self.rows[i, kind]]]

    def tag(self, i: int, rng: np.random.Generator, *, digit: float) -> int:
        """One tag of scan `i`: its digit with that probability, else any other."""
        kind = 0 if rng.random() < digit else rng.integers(1, self.tags.shape[1])
        return int(self.tags[i, kind])


def captions(labels: NDArray[np.int64], traits: NDArray[np.int64], ids: dict[str, int]) -> Captions:
    """Captions of scans with digit `labels` (n,) and measured `traits` (n, 4), in the tokens of `ids`."""
    value = dict.fromkeys(OF_THE_DIGIT, labels) | {name: traits[:, k] for k, name in enumerate(MEASURED)}
    sentences = [[[ids[word] for word in sentence.split()] for sentence in kind] for kind in SENTENCES.values()]
    rows = np.stack([value[name] for name in SENTENCES], axis=1)
    tags = np.stack([np.array([ids[word] for word in words])[value[name]] for name, words in TAGS.items()], axis=1)
    return Captions(sentences, rows, tags)
