"""What calls that ask a judge have in common: who is asked, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from actstore.store import Store
from actstore_analyze.judge.client import Judge
from actstore_analyze.judge.kept import Judgements

__all__ = ["Judging"]


@dataclass(frozen=True, kw_only=True)
class Judging:
    """The judge of a call. How it is asked (at_once, base_url, tries, timeout, price, force) does not name its result.

    force: ask again what had an unclear reply.
    """

    judge: str
    temperature: float = 0.001
    at_once: int = field(default=4, compare=False)
    base_url: str | None = field(default=None, compare=False)
    tries: int = field(default=5, compare=False)
    timeout: float = field(default=60.0, compare=False)
    price: tuple[float, float] | None = field(default=None, compare=False)

    force: bool = field(default=False, compare=False)

    def judgements(self, store: Store, prompt: str) -> Judgements:
        """What the judge has said so far, and how to ask for more."""
        judge = Judge(self.judge, self.base_url, self.tries, self.timeout, self.temperature)
        return Judgements(store, judge, prompt, again=self.force)

    def kept(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Those parameters that are kept with the result."""
        left_out = {one.name for one in fields(self) if not one.compare}
        return {name: value for name, value in parameters.items() if name not in left_out}
