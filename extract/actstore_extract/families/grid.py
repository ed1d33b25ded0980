"""Grids of image tokens: rows of one width, each with a line end, or of a size that the processor says."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from actstore_extract.families.sample import LayoutError
from actstore_extract.roles import Positions

__all__ = ["Lines", "lines", "lines_seen"]


class Lines(NamedTuple):
    """The image tokens of a sample in raster order, the ends of their lines, and (rows, columns) where known."""

    image: Positions
    eol: Positions
    grid: tuple[int, int] | None


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


def lines_seen(
    token_ids: NDArray[np.int64],
    image: Positions,
    block: Positions,
    inputs: Mapping[str, torch.Tensor],
    *,
    resampled: bool,
) -> Lines:
    """What the tokens of one image show, and its processor says, of its lines.

    Lines end where one token comes again at equal distances, if the vision tower sees one picture: between several
    tiles it would tell these apart. Without line ends the grid is that of the patches, m x m of them a token, where the
    processor gives it, or a square, if the tower sees one square picture and nothing `resampled` its patches to learned
    queries. Any other is unknown, None.
    """
    between = np.setdiff1d(np.arange(image[0], image[-1]), image)
    patches, tiles = _patches(inputs), _tiles(inputs)
    if len(between):
        eol = _line_ends(token_ids, image, between, block) if len(patches) == 1 or len(tiles) == 1 else between[:0]
        columns = int(between[0] - image[0])
        return Lines(image, eol, (len(image) // columns, columns) if len(eol) else None)
    if patches:
        return Lines(image, between, _merged(*patches[0], len(image)) if len(patches) == 1 else None)
    side = math.isqrt(len(image))
    square = len(tiles) == 1 and tiles[0][0] == tiles[0][1] and side > 1 and side**2 == len(image) and not resampled
    return Lines(image, between, (side, side) if square else None)


def _merged(rows: int, columns: int, n: int) -> tuple[int, int] | None:
    """The grid of n tokens, each of which stands for m x m of the patches; None where there is no such m.

    >>> _merged(8, 12, 24), _merged(8, 12, 26)
    ((4, 6), None)
    """
    m = math.isqrt(rows * columns // n)
    return (rows // m, columns // m) if m and rows % m == columns % m == 0 and rows * columns == n * m**2 else None


def _line_ends(token_ids: NDArray[np.int64], image: Positions, between: Positions, block: Positions) -> Positions:
    """The tokens between the lines, and the one after the last line, if it is the same; none if these are no lines."""
    alike = len(np.unique(token_ids[between])) == 1
    distances = np.diff([image[0] - 1, *between, image[-1] + 1])
    if not alike or len(np.unique(distances)) != 1:
        return between[:0]
    last = image[-1] + 1
    ends = last in block and token_ids[last] == token_ids[between[0]]
    return np.append(between, last) if ends else between


def _patches(inputs: Mapping[str, torch.Tensor]) -> list[tuple[int, int]]:
    """Rows and columns of patches of each image, where the processor says them: of still images alone."""
    found = inputs.get("image_grid_thw")
    sizes = [] if found is None else found.tolist()
    return [(rows, columns) for frames, rows, columns in sizes if frames == 1]


def _tiles(inputs: Mapping[str, torch.Tensor]) -> list[tuple[int, int]]:
    """Height and width of each picture that the vision tower sees, where the processor gives it pictures (..., 3,
    height, width) and no patches."""
    pictures = [inputs[name] for name in sorted(inputs) if name.startswith("pixel_values")]
    if not all(x.ndim > 3 and x.shape[-3] == 3 for x in pictures):
        return []
    return [(x.shape[-2], x.shape[-1]) for x in pictures for _ in range(math.prod(x.shape[:-3]))]
