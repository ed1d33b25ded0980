"""CIDEr of captions, plain and CIDEr-D."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore_analyze.score.ptb import ptb_tokens

__all__ = ["cider", "cider_per_image"]

Ngram = tuple[str, ...]
Weights = Mapping[Ngram, float]

_LONGEST = 4
_SIGMA = 6.0  # words, of CIDEr-D's penalty on length


@dataclass(frozen=True, slots=True)
class _Caption:
    """tf-idf weights of the n-grams of each length, and the number of bigrams: CIDEr-D's measure of length."""

    weights: Sequence[Weights]
    n_bigrams: int


def cider(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, variant: str = "plain", tokens: str = "raw"
) -> float:
    """Mean CIDEr (times 10, as usual) of one candidate caption per image against its references.

    variant: `plain`, or `d` for CIDEr-D. tokens: `raw`, captions split at white space and nothing else, as the Narrow
    Gate's code has it; `ptb`, in lower case and without punctuation (`ptb_tokens`), the practice for COCO.
    Vedantam, Zitnick, Parikh, "CIDEr" (2015), without stemming. n-grams count the more the fewer of these images'
    references hold them, so a single image scores 0.
    Raises ActstoreError for no images, unequal numbers, an image without references and other variants
    and tokens.

    >>> round(cider(["a cat", "a dog runs"], [["a cat", "one cat"], ["the dog runs"]]), 4)
    3.0208
    """
    return float(cider_per_image(candidates, references, variant=variant, tokens=tokens).mean())


def cider_per_image(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, variant: str = "plain", tokens: str = "raw"
) -> NDArray[np.float64]:
    """CIDEr (n,) of each image; see `cider`.

    >>> cider_per_image(["a cat", "a dog"], [["a cat"], ["a dog"]], variant="d").round(4).tolist()
    [5.0, 5.0]
    """
    if variant not in _SIMILARITIES:
        raise ActstoreError(f"variant {variant!r} is not one of {', '.join(_SIMILARITIES)}")
    if tokens not in _TOKENS:
        raise ActstoreError(f"tokens {tokens!r} are not one of {', '.join(_TOKENS)}")
    if len(candidates) != len(references) or not candidates:
        raise ActstoreError(f"{len(candidates)} candidates for {len(references)} images; give one per image")
    bare = [i for i, captions in enumerate(references) if not captions]
    if bare:
        raise ActstoreError(
            f"image {bare[0]} has no reference ({len(bare)} of {len(references)} have none); leave it out"
        )
    told = _TOKENS[tokens]
    corpus = [[_ngrams(told(caption)) for caption in captions] for captions in references]
    n_holding = Counter(ngram for captions in corpus for ngram in set[Ngram]().union(*captions))
    similarity = _SIMILARITIES[variant]

    def score(candidate: str, captions: list[Counter[Ngram]]) -> float:
        own = _weighed(_ngrams(told(candidate)), n_holding, len(corpus))
        return 10 * float(np.mean([similarity(own, _weighed(caption, n_holding, len(corpus))) for caption in captions]))

    return np.array([score(*pair) for pair in zip(candidates, corpus, strict=True)])


def _ngrams(caption: str) -> Counter[Ngram]:
    """How often each run of 1 to 4 words occurs."""
    words = caption.split()
    starts = [(start, length) for length in range(1, _LONGEST + 1) for start in range(len(words) - length + 1)]
    return Counter(tuple(words[start : start + length]) for start, length in starts)


def _weighed(counts: Counter[Ngram], n_holding: Counter[Ngram], n_images: int) -> _Caption:
    """Counts times log(images / images whose references hold the n-gram)."""
    weights: list[dict[Ngram, float]] = [{} for _ in range(_LONGEST)]
    for ngram, count in counts.items():
        weights[len(ngram) - 1][ngram] = count * (log(n_images) - log(max(1, n_holding[ngram])))
    return _Caption(weights, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _plain(candidate: _Caption, reference: _Caption) -> float:
    """Mean over lengths of the cosine of the n-gram weights."""
    pairs = zip(candidate.weights, reference.weights, strict=True)
    return sum(_cosine(own, other, own) for own, other in pairs) / _LONGEST


def _clipped(candidate: _Caption, reference: _Caption) -> float:
    """As plain, no n-gram counting for more than in the reference, times a penalty on the difference in length."""
    excess = candidate.n_bigrams - reference.n_bigrams
    pairs = zip(candidate.weights, reference.weights, strict=True)
    cosines = [
        _cosine(own, other, {ngram: min(weight, other.get(ngram, 0.0)) for ngram, weight in own.items()})
        for own, other in pairs
    ]
    return exp(-(excess**2) / (2 * _SIGMA**2)) * sum(cosines) / _LONGEST


def _cosine(own: Weights, other: Weights, counted: Weights) -> float:
    """counted . other / (|own| |other|), 0 where a norm is 0."""
    norms = sqrt(sum(weight**2 for weight in own.values()) * sum(weight**2 for weight in other.values()))
    product = sum(weight * other.get(ngram, 0.0) for ngram, weight in counted.items())
    return product / norms if norms else 0.0


_TOKENS: dict[str, Callable[[str], str]] = {"raw": str, "ptb": ptb_tokens}
_SIMILARITIES: dict[str, Callable[[_Caption, _Caption], float]] = {"plain": _plain, "d": _clipped}
