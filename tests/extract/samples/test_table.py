"""Tables of samples: what is in the file is what is in the store."""

import csv
import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actstore.errors import ActstoreError
from actstore.sql.files import read_table
from actstore_extract.samples import SamplesError
from sampling import source
from tabled import extract, lines, picture


@pytest.fixture
def grey(tmp_path):
    (tmp_path / "0.png").write_bytes(picture(9))
    return tmp_path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_table(folder, suffix):
    frame = pl.DataFrame({"image": ["cat/0.png", None], "prompt": ["<image>what?", "a dog"], "score": [1.5, 2.5]})
    path = folder / f"table.{suffix}"
    writers = {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}
    writers[suffix](path)
    found = source("table", path=path).samples()
    assert found.table["sample_id"].to_list() == ["row-000000", "row-000001"]
    assert found.table["score"].to_list() == [1.5, 2.5]
    assert found.image("cat/0.png").size == (7, 9)


def test_a_table_that_is_not_there_or_none(tmp_path):
    with pytest.raises(SamplesError, match="does not exist"):
        source("table", path=tmp_path / "x.csv").samples()
    with pytest.raises(SamplesError, match=r"is one of .parquet, .csv"):
        source("table", path=tmp_path / "x.xlsx").samples()
    with pytest.raises(SamplesError, match=f"{tmp_path}: it is a folder"):
        source("table", path=tmp_path).samples()
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(SamplesError, match=r"bad.parquet: "):
        source("table", path=tmp_path / "bad.parquet").samples()


def test_ids_labels_and_names_of_a_csv_are_text(grey):
    (grey / "t.csv").write_bytes(
        b"\xef\xbb\xbfsample_id,image,label,coco_id,answer,score,turns\n"
        b"000123,0.png,007,000000391895,1.50,0.50,1\n1e5,0.png,1.0,2,2,.25,20\n"
        b"01,0.png,dog,3,3,1e-3,\n1,0.png,,4,4,,3\n"
    )
    found = extract(grey / "t.csv").select("sample_id", "label", "coco_id", "answer", "score", "turns")
    assert found.rows() == [
        ("000123", "007", "000000391895", "1.50", 0.5, 1),
        ("01", "dog", "3", "3", 0.001, None),
        ("1", None, "4", "4", None, 3),
        ("1e5", "1.0", "2", "2", 0.25, 20),
    ]


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-20", ""], [1, -20, None]),
        (["1", "01"], ["1", "01"]),
        (["-0", "0"], [0.0, -0.0]),
        (["1.5", "1.50"], ["1.5", "1.50"]),
        (["1e3", "2e7"], ["1e3", "2e7"]),
        (["1e+3", "nan"], [1000.0, float("nan")]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["1234567890123456.5", "1"], ["1234567890123456.5", "1"]),
        (["1.00000000000000001", "1"], ["1.00000000000000001", "1"]),
        (["True", "False"], [True, False]),
        (["true", "True"], ["true", "True"]),
        (["yes", "1"], ["yes", "1"]),
    ],
)
def test_a_column_of_a_csv_is_numbers_where_nothing_is_lost(tmp_path, texts, values):
    pl.DataFrame({"other": [text or None for text in texts], "b": ["x"] * len(texts)}).write_csv(tmp_path / "t.csv")
    found = read_table(tmp_path / "t.csv")["other"].to_list()
    if texts == ["-0", "0"]:  # one number, two texts
        values = texts
    assert repr(found) == repr(values)


def test_types_are_those_of_all_rows(grey):
    rows = [{"image": "0.png", "label": None, "answers": [], "n": i} for i in range(120)]
    rows += [{"image": "0.png", "label": "dog", "answers": ["zero", "one"], "n": 0.5, "split": "test"}]
    found = extract(lines(grey / "t.jsonl", rows, before=b"\xef\xbb\xbf"))
    assert found.height == 121
    last = found.select("label", "answers", "n", "split").rows()[-2:]
    assert last == [(None, [], 119, None), ("dog", ["zero", "one"], 0.5, "test")]
    (grey / "t.csv").write_text("image,label\n" + "".join(f"0.png,{i}\n" for i in range(120)) + "0.png,dog\n")
    assert read_table(grey / "t.csv")["label"].to_list() == [*map(str, range(120)), "dog"]


@pytest.mark.parametrize(
    "values",
    [
        [{"answer": "a"}, {"confidence": 3, "answer": "b"}],
        [[{"answer": "a"}], [], None, [{"answer": "b", "confidence": 3}]],
        [[None], ["x", None]],
        [2**60 + 1, None, -3],
        [True, None, False],
        [None, None],
        [[], []],
    ],
)
def test_json_lines_give_what_json_gives(tmp_path, values):
    """Late keys at any depth: the oracle is Python's own reader."""

    def bare(value):  # without keys that are NULL, which JSON lines need not write
        if isinstance(value, dict):
            return {key: bare(one) for key, one in value.items() if one is not None}
        return [bare(one) for one in value] if isinstance(value, list) else value

    rows = [{"a": value} for value in values]
    found = read_table(lines(tmp_path / "t.jsonl", rows))
    assert bare(found["a"].to_list()) == bare(values)


def test_json_of_several_kinds_is_text_or_refused(tmp_path):
    rows = [{"id": 7}, {"id": "07"}, {"id": True}, {"id": 2**70}]
    assert read_table(lines(tmp_path / "t.jsonl", rows))["id"].to_list() == ["7", "07", "true", str(2**70)]
    mixed = {
        "a.jsonl": ([{"a": ["x"]}, {"a": "y"}], "column 'a': values are of several kinds: list, str; write them alike"),
        "b.jsonl": ([{"a": [1]}, {"a": ["x"]}], "b.jsonl: column 'a': Could not convert 'x'"),
        "c.jsonl": ([{"a": 1}, [3]], r"c.jsonl: line 2 is no object such as"),
        "d.jsonl": ([{"a": {}}], "column 'a' holds objects without keys"),
    }
    for name, (rows, message) in mixed.items():
        with pytest.raises(ActstoreError, match=message):
            read_table(lines(tmp_path / name, rows))
    (tmp_path / "cut.jsonl").write_text('{"a": 1}\n{"a": ')
    with pytest.raises(ActstoreError, match=r"cut.jsonl: line 2: .*perhaps its download was cut"):
        read_table(tmp_path / "cut.jsonl")
    (tmp_path / "two.csv").write_text("a,a\n1,2\n")
    with pytest.raises(ActstoreError, match="two columns are called 'a'"):
        read_table(tmp_path / "two.csv")


@pytest.mark.parametrize("held", ["struct", "binary"])
def test_pictures_in_parquet_as_sets_of_the_hub_have_them(tmp_path, held):
    files = [picture(value) for value in (0, 200)]
    images = [{"bytes": one, "path": "a.png"} for one in files] if held == "struct" else files
    table = {"img": images, "thumb": images, "Label": [3, 5]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    keys = f"columns={{image='img', label='Label'}}, source='table', path='{tmp_path / 't.parquet'}'"
    found = extract(tmp_path / "t.parquet", f"samples={{ {keys} }}")
    assert found.select("label", "image", "status").rows() == [(3, "0", "ok"), (5, "1", "ok")]
    assert "thumb" not in found.columns
    samples = source("table", path=tmp_path / "t.parquet", columns={"image": "img", "label": "Label"}).samples()
    assert [samples.image(name).getpixel((0, 0)) for name in samples.table["image"]] == [(0,) * 3, (200,) * 3]


def test_pictures_in_parquet_that_are_elsewhere_or_half(grey):
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    paths = pa.array([{"bytes": None, "path": "0.png"}, None], kind)
    pq.write_table(pa.table({"image": paths}), grey / "t.parquet")
    found = source("table", path=grey / "t.parquet").samples()
    assert found.table["image"].to_list() == ["0.png", None]
    assert found.image("0.png").getpixel((0, 0)) == (9, 9, 9)
    half = pa.array([{"bytes": None, "path": "0.png"}, {"bytes": picture(1), "path": None}], kind)
    pq.write_table(pa.table({"image": half}), grey / "h.parquet")
    with pytest.raises(SamplesError, match="has the bytes of some pictures, and the paths of others"):
        source("table", path=grey / "h.parquet").samples()
    pq.write_table(pa.table({"image": [[1], [2]]}), grey / "l.parquet")
    with pytest.raises(SamplesError, match=r"l.parquet: column 'image' holds List\(Int64\), not one text"):
        source("table", path=grey / "l.parquet").samples()


def test_several_pictures_of_a_sample(grey):
    for name in "12":
        (grey / f"{name}.png").write_bytes(picture(int(name)))
    pq.write_table(pa.table({"image": [["0.png", "1.png"], ["2.png", None], [], None]}), grey / "lists.parquet")
    found = source("table", path=grey / "lists.parquet").samples()
    assert found.table["image"].to_list() == [["0.png", "1.png"], ["2.png"], None, None]
    (grey / "one.jsonl").write_text('{"image": ["0.png"]}\n{"image": []}\n')
    assert source("table", path=grey / "one.jsonl").samples().table["image"].to_list() == ["0.png", None]
    (grey / "t.csv").write_text("before,after\n0.png,1.png\n2.png,\n")
    found = source("table", path=grey / "t.csv", columns={"image": ["before", "after"]}).samples()
    assert found.table["image"].to_list() == [["0.png", "1.png"], ["2.png"]]
    kind = pa.list_(pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    held = [
        [],
        [{"bytes": picture(3), "path": None}, {"bytes": picture(4), "path": None}],
        None,
        [{"bytes": picture(5)}],
    ]
    pq.write_table(pa.table({"image": pa.array(held, kind)}), grey / "bytes.parquet")
    found = source("table", path=grey / "bytes.parquet").samples()
    assert found.table["image"].to_list() == [None, ["1/0", "1/1"], None, ["3/0"]]
    assert [found.image(name).getpixel((0, 0))[0] for name in ("1/0", "1/1", "3/0")] == [3, 4, 5]


def test_columns_of_pictures_that_cannot_be(grey):
    (grey / "t.csv").write_text("image,before,after\n0.png,0.png,1.png\n")
    with pytest.raises(SamplesError, match="has a column 'image' besides before, after; rename it"):
        source("table", path=grey / "t.csv", columns={"image": ["before", "after"]}).samples()
    with pytest.raises(SamplesError, match="has no column 'aftr'; did you mean 'after'"):
        source("table", path=grey / "t.csv", columns={"image": ["before", "aftr"]}).samples()
    with pytest.raises(ValueError, match="image alone may be several columns"):
        source("table", path=grey / "t.csv", columns={"label": ["before", "after"]})


def test_a_path_is_no_pattern(tmp_path):
    for name in ("t[1].csv", "t1.csv"):
        (tmp_path / name).write_text(json.dumps(f"from {name}") + "\nx\n")
    assert read_table(tmp_path / "t[1].csv").columns == ["from t[1].csv"]


ROWS = [
    ["image", 'the "cap"', "label"],
    ["0.png", 'L"Etoile, 5"2\nhigh', "cat"],
    ["0.png", "", "dog"],
    ["0.png", '"', ""],
]


def test_a_csv_holds_what_its_writer_was_given(tmp_path):
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows(ROWS)
    found = read_table(tmp_path / "t.csv")
    assert [found.columns, *([cell or "" for cell in row] for row in found.rows())] == ROWS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('0.png,"x,cat\n0.png,y,dog\n0.png,"z",cat\n', "line 4 is no CSV"),
        ('0.png,"one,cat\n0.png,two,dog\n0.png,three",cat\n0.png,"four\n', "line 5 is no CSV"),
        ('0.png,x,cat\n"0.png,y,dog\n0.png,",cat\n', "line 4 ends a row of 2 fields, the header has 3"),
        ("0.png,x\n0.png,y,dog\n", "line 2 ends a row of 2 fields, the header has 3"),
        ("0.png,x,cat,\n", "line 2 ends a row of 4 fields, the header has 3"),
        ('0.png,"say \\"hi\\", you",cat\n', "line 2 is no CSV"),
    ],
)
def test_lines_of_a_csv_that_would_become_others_are_refused(grey, capsys, rows, message):
    (grey / "t.csv").write_text("image,caption,label\n" + rows)
    extract(grey / "t.csv", status=1)
    assert f"t.csv: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"PK", "a table is one of .*; save a spreadsheet as CSV: commas between, UTF-8"),
        ("t.csv", b"image;score\n0.png;0,5\n", "its first line has ';' between names, where commas belong"),
        ("t.csv", "image,label\n0.png,größe\n".encode("latin-1"), "it is not in UTF-8 .*; save it so"),
        ("t.csv", "image,label\n0.png,x\n".encode("utf-16"), "it is not in UTF-8 .*; save it so"),
        (
            "t.csv",
            b"My pictures,,\nimage,label,x\n0.png,x,1\n",
            "column 2 has no name; the first line names every column",
        ),
        ("t.csv", b",image\n0,0.png\n", r"column 1 has no name; .* \(of pandas: index=False\)"),
        ("t.csv", b"\n<!DOCTYPE html><table>", "it is a web page; save the table itself"),
        ("t.parquet", b"<HTML><body>404", "it is a web page"),
        ("t.csv", b"PK\3\4xl", "it is a spreadsheet or an archive under another name; save a spreadsheet as CSV"),
        ("t.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS.*: git lfs pull"),
        ("t.json", b"{}", "a table is one of .*; write a record a line, as .jsonl"),
        ("t.jsonl", b'[\n{"image": "0.png"}]\n', r"it is one list of JSON; write a record a line"),
    ],
)
def test_what_spreadsheets_write_is_refused_with_what_to_do(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ActstoreError, match=f"{name}: {message}"):
        read_table(tmp_path / name)


def test_a_run_does_not_go_on_with_other_samples(grey, capsys):
    table = grey / "t.csv"
    table.write_text("sample_id,image,label\nx,0.png,cat\ny,0.png,dog\n")
    extract(table)
    assert extract(table)["label"].to_list() == ["cat", "dog"]
    for changed in ("x,0.png,dog\ny,0.png,cat\n", "y,0.png,dog\n", "x,,cat\ny,0.png,dog\n"):
        table.write_text("sample_id,image,label\n" + changed)
        extract(table, status=1)
        assert "the source has others now: x was ('x', 'cat'" in capsys.readouterr().err.replace("'0.png', ", "")
    table.write_text("sample_id,image,label\nx,0.png,cat\ny,0.png,dog\nz,0.png,dog\n")
    extract(table, status=1)
    assert "the source has others now: z was not there, is ('z'" in capsys.readouterr().err
