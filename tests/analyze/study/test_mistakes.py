"""Questions that gap, cluster and dimension cannot answer."""

import re

import pytest

from actstore.commands.main import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gap", "--text", "role = 'nope'"], r"no text rows where role = 'nope'; the store has eoi \(image-text\), .*"),
        (["gap", "--text", "role = 'eoi'", "--image", "role = 'eoi'"], "160 rows are on both sides"),
        (["gap", "--image", "role = 'eoi'"], "80 texts and 160 images are not of the same samples.*--pairs all"),
        (["gap", "--text", "rol = 'eoi'"], "no column 'rol'"),
        (["gap", "--drop-dims", "6"], r"no dimension 6: the vectors of .* have 0\.\.5"),
        (["gap", "--drop-dims", "0..5"], "all 6 dimensions would be dropped"),
        (["dimension", "--rank", "12"], "rank 12: Gride compares ranks 2, 4, 8"),
        (["dimension", "--rank", "256"], "rank = 256, but role 'eoi' has 160 samples"),
        (["cluster", "-k", "200"], r"k = 200, but role 'text \+ image' has 160 samples"),
        (["cluster", "--label", "lable"], "no column 'lable' to take labels from, only .*; did you mean 'label'"),
    ],
)
def test_bad_input_is_one_clear_line(store, capsys, arguments, message):
    name, *options = arguments
    status = run([name, str(store), *options])
    out, err = capsys.readouterr()
    assert (status, out) == (1, "")
    assert re.search(message, err)
