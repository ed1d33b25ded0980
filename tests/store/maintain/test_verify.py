"""actstore verify: what it finds in a store, and how it reports it."""

import msgspec
import polars as pl
import pytest

import actstore
import making
from actstore.commands import main
from actstore.format import records
from actstore.maintain import verify
from damaging import KINDS, flip, the


def test_a_whole_store_passes(path):
    steps = verify.steps(path)
    assert verify.run(steps) == []
    # tables and lens, records as a whole, files and contents of parts, a result
    assert len(steps) == 5 + 1 + 3 * (16 + 1) + 1


def test_an_extra_file_in_a_part(path):
    (the(path, "parts/b00000001-*") / "notes.txt").write_text("mine")
    (problem,) = verify.run(verify.steps(path))
    assert "notes.txt: not in the commit record; remove it" in problem.problem
    assert problem.batches == (1,)


def test_what_the_hugging_face_hub_lays_beside_a_store_does_no_harm(path):
    (path / ".cache" / "huggingface" / "download").mkdir(parents=True)
    for name in (
        ".gitattributes",
        "README.md",
        ".cache/huggingface/.gitignore",
        ".cache/huggingface/download/x.metadata",
    ):
        (path / name).write_text("*")
    assert verify.run(verify.steps(path)) == []
    assert actstore.open(path).residual([0], 1).shape == (1, 8)


def test_a_stranger_among_results(path):
    (path / "results" / "notes.txt").write_text("mine")
    (problem,) = verify.run(verify.steps(path))
    assert problem.file == "results/notes.txt"


def test_a_plan_whose_columns_were_renamed_is_found_and_reported(path):
    plan = path / "plan.parquet"
    plan.write_bytes(plan.read_bytes().replace(b"sample_id", b"sample_ie"))
    found = verify.run(verify.steps(path))
    assert [problem.file for problem in found][:1] == ["plan.parquet"]
    assert verify.report(path, found)["file"].to_list() == [problem.file for problem in found]


def _rewritten(path, change):
    """The store with the second part's rows or samples changed and committed as if they were meant so."""
    store = actstore.open(path)
    part = store.parts[1]
    change(part)
    commit = part.commit
    files = {name: making.File.of(part.folder / name) for name in commit.files}
    making.record(path, 1).write_bytes(records.dump(msgspec.structs.replace(commit, files=files).record()))


def _write(part, name, frame):
    making.write_table(part.folder / name, frame)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: _write(part, "rows.parquet", part.rows().reverse()), "row ids are not ascending"),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(pl.col("row_id") + (1 << 32))),
            "row ids of another batch",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(pl.col("place") + 1)),
            "lies outside the array of its role",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(place=pl.lit(0, pl.Int32))),
            "do not match the vectors",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(sample_id=pl.lit("x"))),
            "rows of a sample that the part does not hold",
        ),
        (
            lambda part: _write(part, "rows.parquet", part.rows().with_columns(role=pl.lit("last"))),
            "lies outside the array of its role",
        ),
        (lambda part: _write(part, "rows.parquet", part.rows()[1:]), "14 rows, 15 were committed"),
        (lambda part: _write(part, "rows.parquet", part.rows().drop("k")), "its columns are not those of format 1"),
        (
            lambda part: _write(part, "samples.parquet", part.samples().with_columns(sample_id=pl.lit("x"))),
            "its samples are not those of the plan",
        ),
    ],
)
def test_tables_that_contradict_each_other(path, change, message):
    _rewritten(path, change)
    problems = verify.run(verify.steps(path))
    assert any(message in problem.problem for problem in problems)


def test_the_report_names_files_and_samples(path):
    flip(the(path, KINDS["shard"]))
    report = verify.report(path, verify.run(verify.steps(path)))
    assert report.columns == ["file", "problem", "samples", "first_sample"]
    file, problem, samples, first = report.row(0)
    assert file.endswith("residual/eoi/c/0/0/0")
    assert "its bytes differ from the committed ones (crc32c)" in problem
    assert (samples, first) == (4, "b1s0")


def test_every_sample_that_is_touched_is_listed(path, capsys):
    shard = the(path, KINDS["shard"])
    flip(shard)
    assert main.run(["verify", str(path), "--samples", "--format", "csv"]) == 1
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "file,batch,sample_id,condition"
    name = str(shard.relative_to(path))
    assert [line for line in lines if name in line] == [f"{name},1,b1s{sample},none" for sample in range(4)]


def test_the_report_without_a_plan(path):
    flip(path / "plan.parquet")
    report = verify.report(path, verify.run(verify.steps(path)))
    assert report["file"][0] == "plan.parquet"
