"""Samples of several pictures through the command line: what is stored, run again, replayed and measured."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands import main
from actstore_extract.families import load
from actstore_extract.pictures import open_image
from actstore_extract.recipe.inline import conditions_of
from actstore_extract.replay import Check, Reader, ReplayError, knocked_out, recorded_decoder, stored
from actstore_extract.run.encoder import Encoder
from actstore_extract.shipped import MODELS
from tabled import lines, picture

ROLES = ["all", "eoi", "eoi-of-2", "image-mean", "image-mean-of-2", "last", "random-image", "text-mean"]
CHANGES = [
    f"capture.roles={json.dumps(ROLES)}",
    "capture.kv=['all']",
    "capture.attention=['eoi', 'eoi-of-1', 'eoi-of-2']",
    "capture.mass=true",
    "prompt.text='<images> {asked}'",
    "conditions=['eoi-of-2-knockout']",
    "model.dtype=float32",
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of samples of two pictures, one and none, and one whose second picture is not there."""
    folder = tmp_path_factory.mktemp("several")
    for i in range(3):
        (folder / f"{i}.png").write_bytes(picture(40 * i))
    rows = [
        {"sample_id": "two", "image": ["0.png", "1.png"], "asked": "this digit is a"},
        {"sample_id": "one", "image": ["2.png"], "asked": "this digit is a"},
        {"sample_id": "none", "image": None, "asked": "this digit is a"},
        {"sample_id": "lost", "image": ["0.png", "9.png"], "asked": "this digit is a"},
    ]
    lines(folder / "t.jsonl", rows)
    words = ["samples={ source = 'table', path = '" + str(folder / "t.jsonl") + "' }", *CHANGES]
    command = ["extract", "digits-fusion", str(folder / "s"), "--device", "cpu"]
    command += [part for change in words for part in ("--set", change)]
    assert main.run(command) == 3  # one of them is lost
    return folder / "s", command


def test_rows_say_which_picture(made):
    store = actstore.open(made[0])
    assert store.header.format == 2
    found = store.sql(
        "select sample_id, role, count(*) n, list(picture order by row_id) p from rows where condition = 'none' "
        "and role <> 'all' group by all order by all"
    )
    of = {(row["sample_id"], row["role"]): row["p"] for row in found.iter_rows(named=True)}
    assert of["two", "eoi"] == of["two", "image-mean"] == of["two", "random-image"] == [1, 2]
    assert of["two", "eoi-of-2"] == of["two", "image-mean-of-2"] == [2]
    assert of["two", "last"] == of["two", "text-mean"] == [None]
    assert of["one", "eoi"] == of["one", "image-mean"] == [1]
    assert ("one", "eoi-of-2") not in of
    assert {role for name, role in of if name == "none"} == {"last", "text-mean"}
    samples = {
        row["sample_id"]: row for row in store.sql("from samples where condition = 'none'").iter_rows(named=True)
    }
    assert samples["lost"]["error"].startswith("image 9.png: ")
    first, second = samples["two"]["pictures"]
    assert (first["boi"], second["eoi"]) == (samples["two"]["boi"], samples["two"]["eoi"])
    assert first["image_end"] < first["eoi"] < second["boi"] < second["image_start"]
    assert samples["two"]["grid_rows"] is None
    assert samples["two"]["pictures"][1]["grid_rows"] == samples["one"]["grid_rows"]
    assert samples["one"]["pictures"][0]["image_start"] == samples["one"]["image_start"]
    assert samples["none"]["pictures"] is None


def test_means_are_of_each_picture(made):
    store = actstore.open(made[0])
    chosen = "sample_id = 'two' and condition = 'none' and modality = 'image'"
    for number in (1, 2):
        tokens = store.sql(f"from rows where role = 'all' and picture = {number} and {chosen}")
        mean = store.sql(f"from rows where role = 'image-mean' and picture = {number} and {chosen}")
        np.testing.assert_allclose(store.residual(mean, 3)[0], store.residual(tokens, 3).mean(0), rtol=1e-4, atol=1e-5)
    second = store.sql(f"from rows where role in ('image-mean', 'image-mean-of-2') and picture = 2 and {chosen}")
    x = store.residual(second, 3)
    np.testing.assert_array_equal(x[0], x[1])


def test_attention_to_all_is_that_to_each(made):
    store = actstore.open(made[0])
    columns = {role: store.attention(role, 1) for role in ("eoi", "eoi-of-1", "eoi-of-2")}
    place = columns["eoi"].samples["sample_id"].to_list().index("two")
    both, first, second = (np.nan_to_num(columns[role].values[place]) for role in columns)
    np.testing.assert_allclose(both, first + second, atol=1e-6)
    assert first.any()
    assert second.any()


def test_it_goes_on_and_is_repeated_and_verified(made, capsys):
    store, command = made
    assert main.run(command) == 0
    assert "0 of 8 samples left" in capsys.readouterr().err
    assert main.run(["recompute", str(store), "-n", "3", "--device", "cpu"]) == 0
    assert main.run(["verify", str(store)]) == 0


def test_replays_know_each_picture(made):
    store = actstore.open(made[0])
    model = load(str(MODELS["digits-fusion"]), dtype="float32")
    samples = {row["sample_id"]: row for row in store.plan.filter(pl.col("condition") == "none").iter_rows(named=True)}
    for name, kept in stored(Reader(store), ["two", "one", "none"]).items():
        row = samples[name]
        encoder = Encoder(model, lambda name: open_image(made[0].parent / name), room=1)
        own = encoder.encode(row).layout
        for part in ("image", "eol", "text", "text_before"):
            np.testing.assert_array_equal(getattr(kept.layout, part), getattr(own, part))
        assert (kept.layout.boi, kept.layout.eoi) == (own.boi, own.eoi)
        assert [(span.boi, span.eoi, span.block.tolist()) for span in kept.layout.spans] == [
            (span.boi, span.eoi, span.block.tolist()) for span in own.spans
        ]


def test_a_knockout_of_one_picture_is_replayed(made):
    """Offline as it was online, in the same store; the other picture's would be another."""
    store = actstore.open(made[0])
    reader, decoder = Reader(store), recorded_decoder(store.run, say=lambda _: None)
    samples = stored(reader, ["two", "one"])
    conditions = conditions_of(["eoi-of-2", "eoi-of-1"], n_layers=decoder.n_layers, mode="post")
    check = Check(store, decoder, None)
    found = {one.condition: one.last[0] for one in knocked_out(reader, [samples["two"]], decoder, conditions, check)}
    for condition in ("none", "eoi-of-2-knockout"):
        row = store.sql(f"from rows where role = 'last' and sample_id = 'two' and condition = '{condition}'")
        np.testing.assert_allclose(found[condition], store.residual(row, decoder.n_layers)[0], rtol=1e-4, atol=1e-4)
    assert np.abs(found["eoi-of-2-knockout"] - found["none"]).max() > 1e-2
    assert np.abs(found["eoi-of-2-knockout"] - found["eoi-of-1-knockout"]).max() > 1e-2
    with pytest.raises(ReplayError, match="one has no text -> eoi-of-2.*would change nothing"):
        list(knocked_out(reader, [samples["one"]], decoder, conditions, check))


def test_measures_of_one_image_part_refuse(made, capsys):
    assert main.run(["attention", str(made[0])]) == 1
    assert "two has several pictures (2 of 4 samples do), and shares are those of one" in capsys.readouterr().err
    single = "from rows semi join (from samples where len(pictures) = 1) one using (sample_id, condition)"
    assert main.run(["attention", str(made[0]), single]) == 0


@pytest.mark.parametrize("picture", [1, 2])
def test_attention_to_one_of_the_pictures(made, capsys, picture):
    """Shares of what is stored of its positions alone: behind what begins it, up to what ends it."""
    store = actstore.open(made[0])
    words = ["from rows where sample_id = 'two' and condition = 'none'", "--picture", str(picture), "--names", "eoi"]
    assert main.run(["attention", str(made[0]), *words, "--format", "jsonl", "--threshold", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (own,) = store.sql("from samples where sample_id = 'two' and condition = 'none'").iter_rows(named=True)
    where = own["pictures"][picture - 1]
    mass = store.attention("mass", 2)
    kept = mass.samples.select("sample_id", "condition").rows().index(("two", "none"))
    part = mass.values[kept, where["boi"] + 1 : where["eoi"] + 1].astype(np.float64)
    found = {row["name"]: row["share"] for row in rows if row["layer"] == 2}
    assert found["eoi"] == pytest.approx(part[-1] / part.sum(), rel=1e-5)
    assert sum(found.values()) == pytest.approx(1)


def test_a_picture_that_cannot_be_chosen(made, tmp_path, capsys):
    assert main.run(["attention", str(made[0]), "--picture", "2", "--keep-initial"]) == 1
    assert "take --picture or --keep-initial, not both" in capsys.readouterr().err
    assert main.run(["attention", str(made[0]), "--picture", "3"]) == 1
    assert "no samples with text after their image" in capsys.readouterr().err
