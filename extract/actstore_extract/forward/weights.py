"""Attention weights of chosen query rows in float32, and the edits that take some of them away."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch

__all__ = ["Cut", "Edit", "Mode", "Rows", "padded", "visible"]

Mode = Literal["pre", "post"]

_FLOATS = 2**24  # weights computed at a time: 64 MB
_PROVEN_ROWS = 8


@dataclass(frozen=True, eq=False)
class Edit:
    """Weights taken away in one block: `queries` x `keys`, both (samples, slots) of the prompt, in `heads` (None: all).

    "pre" takes them before the softmax, so that the other keys share what they had; "post" after it, so that their
    share is lost. With `is_open` every slot after the prompt is a query too.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    mode: Mode
    is_open: bool = False
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Cut:
    """An edit in one forward: its queries and keys, (samples, n) each, among those of the forward; heads (heads,)."""

    queries: torch.Tensor
    keys: torch.Tensor
    heads: torch.Tensor
    mode: Mode

    def at(self, rows: torch.Tensor) -> torch.Tensor:
        """What is cut for query rows (samples, n): (samples, heads, n, keys)."""
        queries = self.queries.gather(1, rows)
        return queries[:, None, :, None] & self.keys[:, None, None] & self.heads[:, None, None]


@dataclass
class Rows:
    """The attention of one block in one forward; weights of query rows are computed when they are asked for.

    `query` (samples, heads, queries, d), `key` and `value` (samples, key heads, keys, d), `mask` what the kernel got:
    bool, additive or None, (samples, 1 or heads, queries, keys). `bias`, of the mask's shape, is added to the scores;
    `sink` (samples or 1, heads, queries or 1, 1) is one more score of each query, whose weight goes to no key. Slots
    count the prompt's padding and, with a cache, what came before this forward.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    scaling: float
    softcap: float | None
    is_causal: bool
    query_slots: torch.Tensor
    key_slots: torch.Tensor
    cuts: list[Cut] = field(default_factory=list)
    bias: torch.Tensor | None = None
    sink: torch.Tensor | None = None

    @property
    def n_keys(self) -> int:
        """Keys in this forward, padding included."""
        return self.key.shape[2]

    @property
    def device(self) -> torch.device:
        """Where this block computes."""
        return self.query.device

    @property
    def step(self) -> int:
        """Query rows to ask for at a time, so that their weights take no more than 64 MB (or are a single row)."""
        samples, heads = self.query.shape[:2]
        return max(1, _FLOATS // (samples * heads * self.n_keys))

    @cached_property
    def _key(self) -> torch.Tensor:
        return self.key.to(self._dtype).transpose(2, 3)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.query.dtype, torch.float32)

    def weights(self, rows: torch.Tensor) -> torch.Tensor:
        """Weights (samples, heads, n, keys) of query rows (samples, n), as the values are multiplied by them.

        float32, or float64 in a model of that. Edits are in; a query that may see nothing has weights of zero. What a
        training derives is kept as it is: nothing is written over.
        """
        scores = self._scores(rows)
        for cut in self.cuts:
            if cut.mode == "pre":
                scores = scores.masked_fill(cut.at(rows), -torch.inf)
        blind = scores.amax(-1, keepdim=True) == -torch.inf
        if self.sink is not None:
            scores = torch.cat([scores, self._at(self.sink, rows).to(scores)], -1)
        weights = scores.softmax(-1)[..., : self.n_keys].masked_fill(blind, 0)
        for cut in self.cuts:
            if cut.mode == "post":
                weights = weights.masked_fill(cut.at(rows), 0)
        return weights

    def _scores(self, rows: torch.Tensor) -> torch.Tensor:
        """Masked logits (samples, heads, n, keys): heads that share a key head stand side by side."""
        samples, heads, _, width = self.query.shape
        n = rows.shape[1]
        query = self.query.gather(2, rows[:, None, :, None].expand(samples, heads, n, width)).to(self._dtype)
        grouped = query.reshape(samples, self.key.shape[1], -1, width)
        scores = (grouped @ self._key).view(samples, heads, n, self.n_keys).mul_(self.scaling)
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh() * self.softcap
        if self.bias is not None:
            scores.add_(self._at(self.bias, rows))
        if self.mask is None:
            return scores.masked_fill_(~self._causal(rows), -torch.inf) if self.is_causal else scores
        mask = self._at(self.mask[..., : self.n_keys], rows)
        if mask.dtype != torch.bool:
            scores.add_(mask)
        # The least number that masks add is not -inf: where it is all there is, every key would be seen evenly.
        return scores.masked_fill_(~visible(mask), -torch.inf)

    def _at(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """What x (samples or 1, heads or 1, queries or 1, m) has for query rows (samples, n): (samples, .., n, m)."""
        x = x.expand(len(self.query), -1, self.query.shape[2], -1)
        return x.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

    def _causal(self, rows: torch.Tensor) -> torch.Tensor:
        return (self.key_slots <= self.query_slots[rows][..., None])[:, None]

    def edited(self, output: torch.Tensor) -> torch.Tensor:
        """The kernel's output (samples, queries, heads, d) with the rows that a cut touches computed again."""
        touched = self._touched()
        if not touched.any():
            return output
        output = output.clone()
        at, real = padded(touched)
        for start in range(0, at.shape[1], self.step):
            piece, there = at[:, start : start + self.step], real[:, start : start + self.step]
            sample, column = (index.to(self.device) for index in there.nonzero(as_tuple=True))
            rows = piece.to(self.device)
            made = self._output(rows)
            output[sample, rows[sample, column]] = made[sample, column].to(output.dtype)
        return output

    @torch.no_grad()
    def off(self, output: torch.Tensor) -> float:
        """How far the kernel's output is from weights times values at some rows, relative; NaN if it is not finite."""
        n = self.query.shape[2]
        rows = torch.arange(0, n, max(1, n // _PROVEN_ROWS), device=self.device).expand(len(self.query), -1)
        made, own = self._output(rows), output[:, rows[0]].to(self._dtype)
        sees = self.weights(rows).sum(-1).transpose(1, 2) > 0  # padding in front sees nothing, or all keys evenly
        apart, size = ((x[sees]).norm() for x in (made - own, own))
        return float(apart / size) if size != 0 else float(apart)

    def _output(self, rows: torch.Tensor) -> torch.Tensor:
        """Output (samples, n, heads, d) of query rows (samples, n)."""
        weights = self.weights(rows)
        samples, heads, n, n_keys = weights.shape
        grouped = weights.view(samples, self.value.shape[1], -1, n_keys)
        return (grouped @ self.value.to(self._dtype)).view(samples, heads, n, -1).transpose(1, 2)

    def _touched(self) -> torch.Tensor:
        """Which queries (samples, queries), on the host, lose a key they would see."""
        touched = torch.zeros(len(self.query), self.query.shape[2], dtype=torch.bool)
        for cut in self.cuts:
            touched |= (cut.queries & self._sees(cut.keys)).cpu()
        return touched

    def _sees(self, keys: torch.Tensor) -> torch.Tensor:
        """Which queries (samples, queries) may see one of the keys (samples, keys)."""
        if self.mask is not None:
            return (visible(self.mask[..., : self.n_keys]) & keys[:, None, None]).any(-1).any(1)
        if not self.is_causal:
            return keys.any(1, keepdim=True)
        first = torch.where(keys, self.key_slots, torch.iinfo(torch.int64).max).amin(1)
        return self.query_slots >= first[:, None]


def visible(mask: torch.Tensor) -> torch.Tensor:
    """What an attention mask, bool or additive, lets be seen.

    >>> visible(torch.tensor([0.0, -2.5, torch.finfo(torch.float32).min, -torch.inf])).tolist()
    [True, True, False, False]
    """
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def padded(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (samples, n) of what is chosen (samples, slots), in order, n the most of any sample; and which are real.

    >>> at, real = padded(torch.tensor([[False, True, True], [True, False, False]]))
    >>> at.tolist(), real.tolist()
    ([[1, 2], [0, 1]], [[True, True], [True, False]])
    """
    counts = chosen.sum(1)
    at = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.amax())]
    return at, torch.arange(at.shape[1]) < counts[:, None]
