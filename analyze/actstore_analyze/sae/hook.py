"""Hooks: the places of a model that autoencoders are trained on, by the names that their configurations give them."""

import re
from dataclasses import dataclass

from actstore.errors import ActstoreError

__all__ = ["SIDES", "Hook", "refused_of", "residual"]

SIDES = ("pre", "post")  # the input of a block, its output
NAMED = {"resid_pre": "pre", "resid_post": "post", "in": "pre", "out": "post", "input": "pre", "output": "post"}
LENS = re.compile(r"blocks\.(?P<block>\d+)\.hook_(?P<side>resid_pre|resid_post|in|out)")
MODULE = re.compile(
    r"(?:(?:model|language_model|text_model|transformer|gpt_neox|decoder)\.)*(?:layers|h|blocks)\.(?P<block>\d+)"
    r"(?:\.(?P<side>input|output))?"
)
# What a store does not keep, from the most particular to the least.
ELSEWHERE = {
    r"resid_mid": "the residual stream between attention and MLP",
    r"transcoder|clt": "a transcoder, from the input of an MLP to its output",
    r"hook_(z|q|k|v|result)\b|attn|attention|\batt\b|o_proj|lxa": "attention",
    r"mlp|feedforward|ffn|lxm": "an MLP",
    r"ln\d|norm": "a normalised vector",
    r"embed": "embeddings before the first block",
}
KEPT = "a store keeps the residual stream alone, at the input (resid_pre) and the output (resid_post) of blocks"


@dataclass(frozen=True)
class Hook:
    """The input (pre) or the output (post) of a block; None for what is not said."""

    side: str | None
    block: int | None = None

    def point(self, number: int) -> int:
        """The residual point; number: of the block where the hook names none."""
        return (number if self.block is None else self.block) + (self.side == "post")


def residual(name: str, owner: object) -> Hook:
    """The hook of the residual stream that a name says, in the words of sae-lens, TransformerLens or Transformers.

    A block's module by its bare name does not say whether its input or its output is meant.
    Raises ActstoreError, about the owner, for every other place: a store does not keep it.

    >>> residual("blocks.3.hook_resid_post", "saes"), residual("model.layers.3", "saes")
    (Hook(side='post', block=3), Hook(side=None, block=3))
    >>> residual("blocks.3.hook_mlp_out", "saes")
    Traceback (most recent call last):
    actstore.errors.ActstoreError: saes: it is of blocks.3.hook_mlp_out (an MLP); a store keeps the residual stream ...
    """
    match = LENS.fullmatch(name) or MODULE.fullmatch(name)
    if match is None:
        raise refused_of(name, owner)
    return Hook(NAMED.get(match["side"]), int(match["block"]))


def refused_of(name: str, owner: object) -> ActstoreError:
    """The error about an autoencoder of a place that a store does not keep."""
    kind = next((kind for pattern, kind in ELSEWHERE.items() if re.search(pattern, name)), None)
    return ActstoreError(f"{owner}: it is of {name}{f' ({kind})' if kind else ''}; {KEPT}")
