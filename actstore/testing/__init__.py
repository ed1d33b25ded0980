"""For those who must rely on a store: the promises tried on their own storage, and a disk that loses power.

`python -m actstore.testing FOLDER` tries the promises in a folder, or at a URL of object storage; `promises` and
`promises_at` do so in a test suite of your own.
"""

from actstore.testing.disk import Disk, State, Tree, restore
from actstore.testing.suite import Outcome, promises, promises_at

__all__ = ["Disk", "Outcome", "State", "Tree", "promises", "promises_at", "restore"]
