"""Columns of samples: what they are called, by `[samples] columns`."""

import pytest

import layouts
from actstore_extract.samples import SamplesError
from sampling import source
from tabled import extract, picture


@pytest.fixture
def table(tmp_path):
    (tmp_path / "0.png").write_bytes(picture(9))
    (tmp_path / "t.csv").write_text("ID,file,Label,length,Split\n007,0.png,01,5,a\n")
    return tmp_path / "t.csv"


def keys(path, columns):
    return f"samples={{ source = 'table', path = '{path}', columns = {columns} }}"


def test_columns_are_named_and_may_have_two_names(table):
    given = "{ sample_id = 'ID', image = 'file', file_name = 'file', label = 'Label', n = 'length', split = 'Split' }"
    found = extract(table, keys(table, given))
    wanted = ("sample_id", "image", "file_name", "label", "n", "split", "status")
    assert found.select(*wanted).row(0) == ("007", "0.png", "0.png", "01", 5, "a", "ok")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("{ label = 'Lable' }", "has no column 'Lable'; did you mean 'Label'?"),
        ("{ label = 'Label', file = 'ID' }", "columns 'ID' and 'file' would both be 'file'; name one of them"),
        ("{ id = 'ID', label = 'Label', n = 'length' }", 'and underscores: [samples] columns = { split = "Split" }'),
        ("{ id = 'ID', label = 'Label', split = 'Split' }", '[samples] columns = { own_length = "length" }'),
        ("{ id = 'ID', label = 'Label', split = 'Split', condition = 'length' }", "column 'condition' of the plan"),
    ],
)
def test_columns_that_cannot_be(table, capsys, columns, message):
    extract(table, keys(table, columns), status=1)
    err = " ".join(capsys.readouterr().err.split())
    assert message in err


def test_a_column_that_only_begins_with_a_capital_is_named(table, capsys):
    table.write_text("Image,label\n0.png,x\n")
    extract(table, f"samples={{ source = 'table', path = '{table}' }}", status=1)
    assert '[samples] columns = { image = "Image" }' in " ".join(capsys.readouterr().err.split())


def test_columns_of_every_source(tmp_path):
    """Named here, picked there; the samples and pictures stay."""
    found = source("coco", path=layouts.coco(tmp_path), columns={"truth": "captions"}).samples()
    assert found.table.columns == ["sample_id", "image_id", "truth", "split", "image"]
    assert found.image(found.table["image"][0]).size == (9, 7)
    picked = source("coco", path=tmp_path, columns=["split"]).samples()
    assert picked.table.columns == ["sample_id", "split", "image"]
    assert source("digits", columns={"digit": "label"}, limit=1).samples().table["digit"].to_list() == ["zero"]
    with pytest.raises(SamplesError, match="digits has no column 'lable'; did you mean 'label'?"):
        source("digits", columns={"digit": "lable"}).samples()


def test_a_byte_order_mark_is_no_text(tmp_path):
    """Every file of text that a source reads may begin with one."""
    makers = {"flickr30k": layouts.flickr30k, "coco": layouts.coco, "pope": layouts.pope, "mme": layouts.mme}
    for name, make in makers.items():
        path = make(tmp_path / name)
        plain = source(name, path=path).samples().table
        for file in path.rglob("*"):
            if file.suffix in (".json", ".csv", ".txt"):
                file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        assert source(name, path=path).samples().table.equals(plain), name
