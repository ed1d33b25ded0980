"""Names of arrays: which residual point, role, sample or batch a file or a key says that it is of."""

import re
from dataclasses import dataclass
from typing import NamedTuple

from actstore.errors import ActstoreError, nearest

__all__ = ["EASYROUTINE", "TRANSFORMER_LENS", "Named", "Pattern", "natural"]

# Input of block l is residual point l, output of block l is point l + 1.
TRANSFORMER_LENS = (
    "blocks.{layer}.hook_resid_pre",
    "blocks.{block}.hook_resid_post",
    "blocks.{layer}.hook_in",  # of a TransformerBridge
    "blocks.{block}.hook_out",
)
EASYROUTINE = ("resid_in_{layer}", "resid_out_{block}")
FIELDS = {"layer": r"\d+", "block": r"\d+", "role": ".+?", "sample": ".+?", "batch": ".+?"}


class Named(NamedTuple):
    """What a name says; None where it does not."""

    layer: int | None
    role: str | None
    sample: str | None
    batch: str | None

    @property
    def says(self) -> tuple[bool, ...]:
        """Which of these it says."""
        return tuple(value is not None for value in self)


@dataclass(frozen=True)
class Pattern:
    """A name with fields in it: {layer}, {block}, {role}, {sample}, {batch}; * is anything."""

    text: str

    @property
    def expression(self) -> re.Pattern[str]:
        """What matches it; raises ActstoreError for a field that no name has, or has twice."""
        made, seen = "", set[str]()
        for field, star, plain in re.findall(r"\{(\w*)\}|(\*)|([^{*]+|\{)", self.text):
            if field and (field not in FIELDS or field in seen):
                known = ", ".join(f"{{{name}}}" for name in FIELDS)
                raise ActstoreError(
                    f"--names {self.text!r}: {{{field}}} is not one of {known}{nearest(field, [*FIELDS])}"
                )
            seen.add(field)
            made += f"(?P<{field}>{FIELDS[field]})" if field else ".*?" if star else re.escape(plain)
        if {"layer", "block"} <= seen:
            raise ActstoreError(
                f"--names {self.text!r}: {{layer}} is a residual point, {{block}} one before it; say one"
            )
        return re.compile(made)

    def match(self, file: str, key: str | None) -> Named | None:
        """What the name of an array says: FILE:KEY against a pattern with a colon, else its key, or its file."""
        whole = file if key is None else f"{file}:{key}"
        found = self.expression.fullmatch(whole if ":" in self.text else key if key is not None else file)
        if found is None:
            return None
        said = found.groupdict()
        layer = int(said["layer"]) if "layer" in said else int(said["block"]) + 1 if "block" in said else None
        return Named(layer, said.get("role"), said.get("sample"), said.get("batch"))


def natural(text: str) -> list[tuple[int, str]]:
    """A key to sort names by, numbers in them by their size.

    >>> sorted(["batch_10", "batch_9", "a"], key=natural)
    ['a', 'batch_9', 'batch_10']
    """
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", text)]
