"""Any other image-text or text model: its image is where the configured token id is, and nothing is guessed.

Image begin, end and line ends count only where the model declares them or the tokens show them; roles that need
what was not found are NULL, and `Model.facts` names them.
"""

from actstore_extract.families.family import Family
from actstore_extract.families.wrapped import Wrapped


class Generic(Family):
    """The defaults of every family."""

    name = "generic"
    rules = 2

    def notes(self, model: Wrapped) -> list[str]:
        """What could not be found, and what that means."""
        name = type(model.module).__name__
        if model.image_token_id is None:
            return [f"{name}: its configuration names no image token, so it runs as a model of text alone"]
        roles = [role for role, ids in zip(("boi", "eoi"), self.wrappers(model), strict=True) if not ids]
        if not roles:
            return []
        return [f"{name}: nothing declares what stands around an image, so there is no {' and no '.join(roles)}"]


FAMILY = Generic()
