"""actstore repair: samples whose data is damaged are run again, and nothing else changes."""

import random
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from PIL import Image

import actstore
import making
from actstore import ActstoreError
from actstore.commands import main
from actstore.commands.statuses import Status
from actstore.format import commits
from actstore.maintain import compaction, damage, orphans, verify
from actstore_extract.again import repair
from actstore_extract.recipe import recipe
from actstore_extract.run.extractor import Extractor
from actstore_extract.run.runner import Run
from extracting import extract, samples, vectors

FEW = (
    "samples.limit=12",
    "capture.roles=['eoi', 'image', 'last']",
    "capture.kv=['eoi', 'first-image']",
    "capture.attention=['eoi']",
    "capture.mass=true",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    extract(path, *FEW)
    return path


@pytest.fixture(scope="module")
def expected(whole):
    return contents(whole)


@pytest.fixture(scope="module")
def compacted(whole, tmp_path_factory):
    path = shutil.copytree(whole, tmp_path_factory.mktemp("runs") / "compacted")
    list(compaction.compact(path))
    return path


@pytest.fixture
def path(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "s")


def contents(path):
    """All that a store gives out: rows with row_id, samples, vectors and attention."""
    store = actstore.open(path)
    attention = {}
    for key in ("eoi", "mass"):
        for layer in store.layers:
            found = store.attention(key, layer)
            names = found.samples["sample_id"].to_list()
            attention |= {(key, layer, name): one.tobytes() for name, one in zip(names, found.values, strict=True)}
    rows = store.sql("select * exclude (place) from rows order by row_id")
    kept = rows.filter(pl.col("role").is_in(store.kv))
    kv = [read(kept, block).tobytes() for block in store.blocks for read in (store.keys, store.values)]
    residual = rows.filter(pl.col("role").is_in(store.roles))
    vectors = [store.residual(residual, layer).tobytes() for layer in store.layers]
    return rows.write_json(), samples(path).write_json(), vectors, kv, attention


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def problems(path):
    return verify.run(verify.steps(path))


def repaired(path, **options):
    return list(repair.repair(path, damage.find(path, problems(path)), **options))


def part(path, name="b00000001-*"):
    (found,) = (path / "parts").glob(name)
    return found


DAMAGES = {
    "a shard": lambda path: flip(part(path) / "residual/image/c/0/0/0"),
    "attention alone": lambda path: flip(part(path) / "attention/eoi/c/0/0/0/0"),
    "a shard that is gone": lambda path: (part(path) / "residual/eoi/c/0/0/0").unlink(),
    "rows": lambda path: flip(part(path) / "rows.parquet"),
    "the part": lambda path: shutil.rmtree(part(path)),
    "a stranger in the part": lambda path: (part(path) / "note.txt").write_text("mine"),
    "the record": lambda path: flip(making.record(path, 1)),
    "the record of another": lambda path: shutil.copy(making.record(path, 0), making.record(path, 1)),
}


SELDOM = ("a shard that is gone", "a stranger in the part", "the record of another")


def slow(*arguments):
    return pytest.param(*arguments, marks=pytest.mark.slow)


@pytest.mark.parametrize("what", [slow(what) if what in SELDOM else what for what in DAMAGES])
def test_what_is_damaged_is_made_again_bit_for_bit(path, expected, what):
    before = {file: file.read_bytes() for file in making.files(path)}
    DAMAGES[what](path)
    damaged = {file: file.read_bytes() for file in making.files(path)}
    (found,) = damage.find(path, problems(path))
    assert (found.records, found.batches) == (("b00000001.json",), (1,))
    (done,) = list(repair.repair(path, [found]))
    assert (done.commit.name, done.commit.replaces, done.samples) == ("c00000000.json", ("b00000001.json",), 4)
    assert done.bit_equal is (None if "record" in what else True)
    assert contents(path) == expected
    assert problems(path) == []
    assert actstore.open(path).remaining == []
    for file, content in damaged.items():
        assert file.name == "index.duckdb" or file.read_bytes() == content
    assert before.keys() - {file for file in before if file.exists()} <= before.keys() - damaged.keys()
    assert extract(path, *FEW).samples == 0


def test_two_damaged_parts_and_a_reader_of_what_is_intact(path, expected):
    reader = actstore.open(path)
    rows = reader.sql("from rows where row_id < 4294967296 and role = 'image'")
    flip(making.record(path, 0))
    shutil.rmtree(part(path, "b00000002-*"))
    with pytest.raises(ActstoreError):
        actstore.open(path)
    assert [done.commit.batches for done in repaired(path)] == [(0,), (2,)]
    assert contents(path) == expected
    np.testing.assert_array_equal(reader.residual(rows, 3), actstore.open(path).residual(rows, 3))
    assert next(compaction.compact(path)).batches == (0, 1, 2)
    assert problems(path) == []


@pytest.mark.parametrize("name", [slow("residual/eoi/c/0/0/0"), slow("attention/mass/c/0/0/0"), "samples.parquet"])
def test_a_compacted_part(compacted, expected, tmp_path, name):
    path = shutil.copytree(compacted, tmp_path / "s")
    flip(part(path, "c*") / name)
    (done,) = repaired(path)
    assert (done.commit.batches, done.commit.replaces, done.samples) == ((0, 1, 2), ("c00000000.json",), 12)
    assert done.bit_equal
    assert contents(path) == expected
    assert problems(path) == []


@pytest.mark.parametrize("gone", [[], slow(["b00000001-*"]), ["b*"]])
def test_the_record_of_a_compaction(compacted, expected, tmp_path, gone):
    """Whether or not gc has removed the parts that it had replaced."""
    path = shutil.copytree(compacted, tmp_path / "s")
    flip(path / "commits" / "c00000000.json")
    for folder in [folder for name in gone for folder in (path / "parts").glob(name)]:
        shutil.rmtree(folder)
    done = repaired(path)
    assert len(done) == {(): 1, ("b00000001-*",): 1, ("b*",): 3}[tuple(gone)]
    assert "c00000000.json" in done[0].commit.replaces
    assert contents(path) == expected
    assert problems(path) == []


def test_a_damaged_record_that_a_later_compaction_replaced_does_no_harm(compacted, expected, tmp_path):
    path = shutil.copytree(compacted, tmp_path / "s")
    flip(part(path, "c*") / "rows.parquet")
    repaired(path)
    flip(path / "commits" / "c00000000.json")
    flip(making.record(path, 2))
    assert contents(path) == expected
    assert problems(path) == []
    assert commits.next_compaction(path) == 2


def test_gc_removes_what_was_damaged_a_day_later(path, expected):
    flip(making.record(path, 1))
    shutil.copytree(part(path), path / "parts" / "b00000001-0badcafe")  # whose it was, nobody knows
    with pytest.raises(ActstoreError):
        orphans.find(path, older_than=0)
    repaired(path)
    assert orphans.find(path, older_than=0) == []
    yesterday = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
    making.change(path / "commits" / "c00000000.json", written=yesterday)
    found = orphans.find(path, older_than=0)
    assert [one.path.name[:9] for one in found] == ["b00000001"] * 2
    assert all(orphans.remove(one) for one in found)
    assert contents(path) == expected
    assert orphans.find(path, older_than=0) == []


def test_only_what_is_damaged_is_run(path, monkeypatch):
    flip(part(path) / "rows.parquet")
    content, run = Extractor.content, []

    def counted(self, planned, *arguments, **options):
        run.extend(planned["sample_id"])
        return content(self, planned, *arguments, **options)

    monkeypatch.setattr(Extractor, "content", counted)
    repaired(path)
    assert run == [f"digit-{i:04}" for i in range(4, 8)]
    assert repaired(path) == []
    assert len(run) == 4


def test_the_second_of_two_repairs_leaves_the_first(path):
    flip(part(path) / "rows.parquet")
    found = damage.find(path, problems(path))
    assert len(list(repair.repair(path, found))) == 1
    assert list(repair.repair(path, found)) == []
    assert len(list((path / "parts").iterdir())) == 4


def test_what_comes_out_otherwise_is_not_written(path, monkeypatch):
    flip(part(path) / "residual/image/c/0/0/0")
    content = Extractor.content

    def other(self, planned, *arguments, **options):
        made = content(self, planned, *arguments, **options)
        made.residual["eoi"][3, 1] ^= 1 << 15  # the signs of one vector
        return made

    monkeypatch.setattr(Extractor, "content", other)
    with pytest.raises(ActstoreError, match=r"residual/eoi of sample digit-0005 made again is 2 away .* nothing"):
        repaired(path)
    assert len(list((path / "commits").iterdir())) == 3


@pytest.mark.slow
def test_any_damage_to_commits_and_parts_heals(whole, compacted, expected, tmp_path):
    """Files flipped, cut, emptied, lost and put in each other's place, several at a time, in 40 stores one after
    another, some repaired or compacted before."""
    chance, rounds, files = random.Random(0), 40, 0
    for number in range(rounds):
        path = shutil.copytree(chance.choice([whole, compacted]), tmp_path / f"s{number}")
        for _ in range(chance.choice([1, 1, 2])):  # the second time on what was repaired
            found = sorted(file for name in ("parts", "commits") for file in making.files(path / name))
            for file in chance.sample(found, chance.choice([1, 2, 5])):
                files += 1
                if file.exists():
                    _harm(chance, file, found)
            done = repaired(path)
            assert contents(path) == expected, number
            assert problems(path) == [], number
            assert repaired(path) == [], number
            if done and chance.random() < 0.5:
                list(compaction.compact(path))
                assert contents(path) == expected, number
    assert files > rounds


def _harm(chance, file, others):
    content = file.read_bytes()
    at = chance.randrange(max(1, len(content)))
    other = chance.choice([one for one in others if one.exists()])
    harmed = [
        content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :] if content else b"x",
        content[:at],
        b"",
        other.read_bytes(),
        None,
    ]
    choice = chance.choice(harmed)
    if choice is not None:
        file.write_bytes(choice)
    elif file.parent.name == "commits":  # a record that is lost is a batch that is not done, which extract does
        file.write_bytes(b"")
    else:
        file.unlink()


# Samples that cannot be had, and samples that can be had after all


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures" / "cat"
    folder.mkdir(parents=True)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "1.png").rename(folder / "hidden")
    (folder / "1.png").write_text("no image")
    return folder.parent


@pytest.fixture
def made(pictures, tmp_path):
    keys = [f"samples={{source='imagefolder', path='{pictures}'}}", "capture.part_samples=3", "capture.batch_size=2"]
    Run(recipe.load("digits-fusion", keys)).extract(tmp_path / "s")
    return tmp_path / "s"


@pytest.mark.parametrize("merged", [False, True])
def test_a_sample_that_failed_is_run_once_more(made, pictures, merged):
    """Also in a merged part, where its rows come between those of other batches."""
    if merged:
        list(compaction.compact(made))
    before = actstore.open(made).sql("select * exclude (place) from rows order by row_id")
    kept = vectors(made)
    assert repaired(made, failed=True) == []
    (pictures / "cat" / "hidden").rename(pictures / "cat" / "1.png")
    (done,) = repaired(made, failed=True)
    assert (done.samples, done.commit.replaces) == (1, ("c00000000.json" if merged else "b00000000.json",))
    store = actstore.open(made)
    after = store.sql("select * exclude (place) from rows order by row_id")
    assert after.filter(pl.col("sample_id") != "cat/1.png").equals(before)
    assert after.filter(pl.col("sample_id") == "cat/1.png").height == before.height / 5
    assert set(samples(made)["status"]) == {"ok"}
    now = vectors(made)
    assert {key: now[key] for key in kept} == kept
    alone = Run(recipe.load("digits-fusion", [f"samples={{source='imagefolder', path='{pictures}'}}"]))
    alone.extract(made.parent / "t")
    assert now == vectors(made.parent / "t")
    assert problems(made) == []
    assert repaired(made, failed=True) == []


def test_samples_that_are_gone(made, pictures, monkeypatch):
    flip(part(made, "b00000001-*") / "samples.parquet")
    (pictures / "cat" / "4.png").write_text("")
    with pytest.raises(ActstoreError, match=r"1 samples of b00000001.json cannot be run now, first cat/4.png: image"):
        repaired(made)
    shutil.copytree(pictures, made.parent / "moved")
    Image.new("RGB", (8, 8)).save(made.parent / "moved/cat/4.png")
    shutil.rmtree(pictures)
    with pytest.raises(ActstoreError, match=r"pictures does not exist; set samples.path to"):
        repaired(made)
    with pytest.raises(ActstoreError, match=r"residual/.* of sample cat/4.png made again is .* away from what"):
        repaired(made, overrides=[f"samples.path={made.parent / 'moved'}"])


def test_a_sample_that_had_failed_fails_again(made, pictures):
    expected = vectors(made)
    flip(part(made, "b00000000-*") / "residual/eoi/c/0/0/0")
    (done,) = repaired(made)
    assert done.bit_equal
    shutil.rmtree(part(made, "c00000000-*"))  # the record says how many had failed
    (done,) = repaired(made)
    assert done.bit_equal
    for record in (made / "commits").glob("[bc]0000000[01].json"):
        flip(record)
    with pytest.raises(ActstoreError, match=r"if they never could be run: --accept-failed"):
        repaired(made)
    assert len(repaired(made, accept_failed=True)) == 2
    assert vectors(made) == expected


# The command


def test_verify_says_how_to_heal_and_repair_does(path, expected, capsys):
    assert main.run(["repair", str(path)]) == 0
    assert "checks, nothing to repair" in capsys.readouterr().err
    flip(part(path) / "rows.parquet")
    assert main.run(["verify", str(path)]) == 1
    err = capsys.readouterr().err
    assert f"makes 4 samples anew: actstore repair {path}\n" in err
    assert "without them, these are lost: digit-0004, digit-0005, digit-0006 and 1 more" in err
    assert main.run(["repair", str(path), "--dry-run", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "record,batch,sample_id,condition,problem"
    assert [line.split(",")[2] for line in lines[1:]] == [f"digit-{i:04}" for i in range(4, 8)]
    everything = damage.find(path, problems(path))
    everything += [damage.Damage((one.name,), one.batches, ()) for one in actstore.open(path).commits]
    assert damage.table(path, everything, failed=True)["sample_id"].n_unique() == actstore.open(path).plan.height
    assert main.run(["repair", str(path), "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("c00000000.json,b00000001.json,4,")
    assert main.run(["verify", str(path)]) == 0
    assert contents(path) == expected


def test_damaged_files_are_mentioned_where_there_are_any(made, pictures, capsys):
    assert main.run(["repair", str(made), "--failed", "--format", "csv"]) == Status.IN_PART
    (pictures / "cat" / "hidden").rename(pictures / "cat" / "1.png")
    assert main.run(["repair", str(made), "--failed", "--format", "csv"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "damaged files" not in err
    flip(part(made, "b00000001-*") / "rows.parquet")
    assert main.run(["repair", str(made)]) == 0
    assert "the damaged files are left as they are" in capsys.readouterr().err


def test_what_cannot_be_made_again_is_said(path, capsys):
    flip(path / "vocab.parquet")
    assert main.run(["repair", str(path)]) == 1
    assert f"restore {path}/vocab.parquet from a copy; it cannot be made again" in capsys.readouterr().err


def test_a_store_that_no_recipe_made(tmp_path, capsys):
    store = making.store(tmp_path / "s")
    flip(part(store.path) / "rows.parquet")
    with pytest.raises(ActstoreError, match="has no recipe in its run card: only what actstore extract made"):
        repaired(store.path)
    assert main.run(["verify", str(store.path)]) == 1
    assert "4 samples are lost unless there is a copy: b1s0, b1s1, b1s2 and 1 more;" in capsys.readouterr().err
