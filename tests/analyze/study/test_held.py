"""Where an image comes in later, its vectors are NaN before: whoever reads vectors says so, or leaves them out."""

import re
from pathlib import Path

import actstore_analyze

ROOT = Path(actstore_analyze.__file__).parent
# These read them by themselves, of layers and rows that they have chosen by `image_from`.
CHOOSING = {"study/held.py", "lens/study.py"} | {
    f"report/explore/{name}.py" for name in ("features", "resources", "sample")
}


def test_measures_read_vectors_where_they_are_looked_at():
    reading = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if re.search(r"\bstore\.(residual|batches)\(", path.read_text(encoding="utf-8"))
    }
    assert reading == CHOOSING, "read vectors by study/held"
