"""Dots3-Note: `<|img|>` and `<|endofimg|>` stand around an image, which nothing declares."""

from actstore_extract.families.family import Family
from actstore_extract.families.wrapped import Wrapped


class Dots3Note(Family):
    """Image tokens are merged patches, of the grid that the processor gives."""

    name = "dots3_note"
    rules = 2
    architectures = ("Dots3NoteForConditionalGeneration",)

    def wrappers(self, model: Wrapped) -> tuple[frozenset[int], frozenset[int]]:
        """`<|img|>` and `<|endofimg|>`."""
        known = model.tokenizer.get_vocab()
        begin, end = (frozenset({known[token]} if token in known else ()) for token in ("<|img|>", "<|endofimg|>"))
        return begin, end


FAMILY = Dots3Note()
