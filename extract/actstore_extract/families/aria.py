"""Aria: its chat template writes `<fim_prefix>` and `<fim_suffix>` around an image, which nothing declares."""

from actstore_extract.families.family import Family
from actstore_extract.families.wrapped import Wrapped


class Aria(Family):
    """Image tokens are learned queries, whose order is no grid."""

    name = "aria"
    rules = 2
    architectures = ("AriaForConditionalGeneration",)

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """`<fim_prefix>` and `<fim_suffix>`."""
        known = model.tokenizer.get_vocab()
        begin, end = (frozenset({known[token]} if token in known else ()) for token in ("<fim_prefix>", "<fim_suffix>"))
        return begin, end


FAMILY = Aria()
