"""Names of roles: what other tools call a hook or a token, as the format has it."""

import re
import warnings

from actstore.errors import ActstoreError, ActstoreWarning
from actstore.format.given import text
from actstore.format.names import ROLE_NAME

__all__ = ["Roles", "role_of"]

TAKEN = "mass"  # what attention has under this name is no role


def role_of(name: str) -> str:
    """The role that something is called which has another name elsewhere; a role's own name stays.

    Raises ActstoreError for a name without a letter to begin with.

    >>> role_of("last-2"), role_of("hook_resid_post"), role_of("model.layers[3].mlp"), role_of("<eoss>")
    ('last-2', 'hook-resid-post', 'model-layers-3-mlp', 'eoss')
    """
    made = re.sub(r"[^a-z0-9]+", "-", str(name).lower()).strip("-")
    if not ROLE_NAME.fullmatch(made) or made == TAKEN:
        raise ActstoreError(f"role {name!r}: use lower-case letters, digits and single hyphens, and not '{TAKEN}'")
    return made


class Roles:
    """The roles of one store by the names they were given; a change is said once, and two names are never one role.

    changed: names that are others in the store, with these.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self.changed: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        role = role_of(text(name, "a role"))
        if (first := self._names.setdefault(role, name)) != name:
            raise ActstoreError(f"{first!r} and {name!r} would both be the role '{role}': rename one")
        if role != name and name not in self.changed:
            self.changed[name] = role
            warnings.warn(f"{name!r} is the role '{role}' in the store", ActstoreWarning, stacklevel=3)
        return role
