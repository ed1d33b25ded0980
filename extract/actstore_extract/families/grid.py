"""Grids of image tokens: rows of one width, each with a line end."""

import numpy as np

from actstore_extract.families.sample import LayoutError
from actstore_extract.roles import Positions

__all__ = ["lines"]


def lines(block: Positions, grid: tuple[int, int]) -> tuple[Positions, Positions]:
    """Image tokens (rows * columns,) and line ends (rows,) of the positions in `block`.

    LayoutError unless the block is without gap and as long as the grid (rows, columns) says.

    >>> [x.tolist() for x in lines(np.arange(5, 11), (2, 2))]
    [[5, 6, 8, 9], [7, 10]]
    """
    rows, columns = grid
    if len(block) != rows * (columns + 1) or (np.diff(block) != 1).any():
        raise LayoutError(
            f"{len(block)} image tokens instead of {rows} lines of {columns} with their ends: the prompt was cut, "
            "or the processor does not belong to this model"
        )
    table = block.reshape(rows, columns + 1)
    return table[:, :columns].ravel(), table[:, columns]
