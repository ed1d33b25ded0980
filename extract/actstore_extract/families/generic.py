"""Any other image-text or text model: its image is where the configured token id is, and nothing is guessed.

Image begin, end and line ends count only where the model declares them or the tokens show them; roles that need
what was not found are NULL, and `Model.facts` names them.
"""

from actstore_extract.families.family import Family


class Generic(Family):
    """The defaults of every family."""

    name = "generic"


FAMILY = Generic()
