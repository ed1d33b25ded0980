"""What a self-check found, as it is said and as a run card keeps it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

from actstore_extract.families import Batching

__all__ = ["Found", "stricter"]

_WORDS: Mapping[Batching, str] = {
    "padded": "padded batches",
    "of one length": "batches of samples of one length",
    "of one": "one sample at a time",
}
_LOOKED = {
    "attention blocked": "whether blocked attention changes the model",
    "first token generated": "whether what it generates first is what it says next",
    "two pictures": "whether another picture changes the vectors at the image",
}


@dataclass(frozen=True)
class Found:
    """`held` names what is right or not, `differences` are relative, `allowed` is three times the `noise` between two
    kernels within bounds; `left_out` says why something was not looked at, and `batches` how samples may share a
    forward, `why` if not padded."""

    sample_id: str | None = None
    noise: float | None = None
    allowed: float | None = None
    held: list[str] = field(default_factory=list)
    differences: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    batches: Batching = "padded"
    why: str | None = None

    def card(self) -> dict[str, Any]:
        """What the run card keeps."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What is said of it."""
        lines = []
        if self.sample_id is not None and self.allowed is not None:
            within = [figure for figure in self.differences.values() if figure <= self.allowed]
            lines.append(
                f"self-check passed on {self.sample_id}: what is kept is what the model computes "
                f"(relative difference {max(within, default=0):.2g}, where up to {self.allowed:.1g} is rounding)"
            )
        lines += [
            f"self-check: not looked at: {_LOOKED.get(what, what)} ({why})" for what, why in self.left_out.items()
        ]
        if self.batches != "padded":
            lines.append(f"self-check: {self.why}; going on with {_WORDS[self.batches]}")
        return lines


def recorded(run: Mapping[str, Any] | None) -> Found:
    """What a run card keeps; of one of a version that checked nothing, that batches are padded."""
    said = (run or {}).get("check")
    return Found(**said) if isinstance(said, dict) else Found()


def stricter(one: Found, other: Found) -> Found:
    """The first, with the batches of whichever allows less."""
    order = get_args(Batching)
    if order.index(other.batches) <= order.index(one.batches):
        return one
    return replace(one, batches=other.batches, why=other.why)
