"""What calls of `actstore sae` and of `actstore features` share: autoencoders, and the vectors that they code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from actstore.store import Store
from actstore_analyze.sae.groups import points_of, roles_of
from actstore_analyze.sae.source import Source, source
from actstore_analyze.study.study import EVERYTHING, PerLayer

__all__ = ["Coded"]


@dataclass(frozen=True, kw_only=True)
class Coded(PerLayer):
    """A study of vectors by the autoencoder of each layer; fingerprints: of the files of these."""

    saes: str
    sae_id: str | None
    hook: str | None
    fingerprints: tuple[str, ...]
    roles: tuple[str, ...]

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        saes: str = "saes",
        sae_id: str | None = None,
        hook: str | None = None,
        roles: Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        **asked: Any,
    ) -> Self:
        """The call with everything found and checked; without layers all that have vectors and an autoencoder."""
        found = source(saes, sae_id, hook)
        return cls(
            saes=saes,
            sae_id=sae_id,
            hook=found.hook,
            fingerprints=tuple(found.fingerprints),
            roles=roles_of(store, roles, asked.get("sql", EVERYTHING)),
            layers=points_of(store, found, layers),
            **asked,
        )

    @property
    def source(self) -> Source:
        """The autoencoders."""
        return source(self.saes, self.sae_id, self.hook)
