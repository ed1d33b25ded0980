"""Images of three cats and five dogs, a folder for each."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for label, count in (("cat", 3), ("dog", 5)):
        (tmp_path / label).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 255, (9, 7, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    return tmp_path
