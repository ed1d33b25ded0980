"""actstore attention, end to end on a small store made with numpy."""

import re

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.attention import bands
from actstore_analyze.study.intervals import LeftOut, jackknifed
from two_sided import command

N, LAYERS, IMAGE, TEXT = 12, (0, 1, 2), 40, 3
START = 2


def mass(layer, length=IMAGE + 1):
    """(N, keys): attention to every key up to the end of the image; position 9 of the sample draws much."""
    rng = np.random.default_rng([layer, length])
    weights = rng.random((N, START + length)).astype(np.float32)
    weights[:, :START] = 50
    weights[:, 9] = 20 + layer
    return weights


def make(
    path, *, lengths=(IMAGE,) * N, eoi=True, stored=("mass",), last=3, dtype="float32", family="generic", blocks=3,
    layers=LAYERS, grid=(None, None), eol=(), starts=(START,) * N,
    boi=None, without=(),
):  # fmt: skip
    """N samples: [BOS] [BOI], image tokens, [EOI] if so, TEXT tokens; mass NaN at the output.

    grid: rows and columns of the image. eol: positions with stored rows of that role. without: layers of no attention.
    """
    plan = pl.DataFrame({"sample_id": [f"s{i:02}" for i in range(N)], "label": list("abc") * 4})
    card = {"n_layers": blocks, "family": family}
    store = actstore.create(path, plan=plan, layers=(*layers, last), d_model=2, run=card, dtype="float32")
    samples = plan.select(
        "sample_id",
        status=pl.lit("ok"),
        length=pl.Series([START + n + eoi + TEXT for n in lengths], dtype=pl.Int32),
        image_start=pl.Series(starts, dtype=pl.Int32),
        grid_rows=pl.lit(grid[0], pl.Int32),
        grid_columns=pl.lit(grid[1], pl.Int32),
        image_end=pl.Series([START + n - 1 for n in lengths], dtype=pl.Int32),
        boi=pl.lit(boi, pl.Int32),
        eoi=pl.Series([START + n if eoi else None for n in lengths], dtype=pl.Int32),
    )
    full = np.stack([mass(layer) for layer in layers] + [np.full((N, START + IMAGE + 1), np.nan, np.float32)])
    for sample, n in enumerate(lengths):
        full[:, sample, START + n + eoi :] = np.nan
    full[list(without)] = np.nan
    rows = pl.DataFrame({"sample_id": plan["sample_id"], "role": "last", "k": 0, "position": None})
    residual = {"last": np.zeros((len(store.layers), N, 2), np.float32)}
    if eol:
        ends = [(sample, "eol", k, at) for sample in plan["sample_id"] for k, at in enumerate(eol)]
        rows = pl.concat([rows, pl.DataFrame(ends, schema=rows.columns, orient="row")], how="vertical_relaxed")
        residual["eol"] = np.zeros((len(store.layers), N * len(eol), 2), np.float32)
    arrays = {"mass": full, "eoi": full[:, :, None, :TEXT]}
    kept = {name: arrays[name] for name in stored}
    store.write(0, samples=samples, rows=rows, residual=residual, attention=kept, attention_dtype=dtype)
    return path


def shares(rows, layer):
    return {row["name"]: row["share"] for row in rows if row["layer"] == layer}


def test_the_interval_of_a_share_leaves_each_sample_out(tmp_path, capsys):
    _, rows, _ = command(capsys, "attention", make(tmp_path / "s"), "--layers", 1)
    looked_at = mass(1)[:, START:].astype(np.float64)
    left = np.array([np.delete(looked_at[:, 7], i).sum() / np.delete(looked_at, i, axis=0).sum() for i in range(N)])
    one = next(row for row in rows if row["name"] == "at-9")
    assert (one["low"], one["high"]) == pytest.approx(jackknifed(one["share"], LeftOut(left)), rel=1e-5)
    assert all(row["low"] < row["share"] < row["high"] for row in rows)
    _, bare, _ = command(capsys, "attention", tmp_path / "s", "--layers", 1, "--no-interval")
    assert [row["share"] for row in bare] == [row["share"] for row in rows]
    assert {row["low"] for row in bare} == {None}


def test_shares_of_the_mass_by_position(tmp_path, capsys):
    store = make(tmp_path / "s")
    status, rows, err = command(capsys, "attention", store, "--figure", tmp_path / "f.svg")
    assert status == 0
    assert "saved as" in err
    assert {row["layer"] for row in rows} == set(LAYERS)  # nothing attends at the output
    for layer in LAYERS:
        total = mass(layer)[:, START:].sum(axis=0, dtype=np.float64)
        f = total / total.sum()
        found = shares(rows, layer)
        assert found == pytest.approx({
            "at-9": f[9 - START], "last-image": f[-2], "eoi": f[-1], "internal image": 1 - f[9 - START] - f[-2] - f[-1],
        })  # fmt: skip
    assert [(row["position"], row["positions"]) for row in rows[:4]] == [(9, 1), (41, 1), (42, 1), (None, IMAGE - 2)]
    drawing = (tmp_path / "f.svg").read_text()
    assert re.search(r'aria-label="block 1, at-9: share 0\.\d{3} \(1 position\)', drawing)
    assert "X-axis titled 'block'" in drawing


def test_blocks_without_attention_are_left_out_and_said(tmp_path, capsys):
    store = make(tmp_path / "s", without=(0, 2))
    status, rows, err = command(capsys, "attention", store)
    assert status == 0
    assert "the model has no attention in blocks 0, 2, which are left out" in err
    assert {row["layer"] for row in rows} == {1}
    status, _, err = command(capsys, "attention", store, "--layers", 2)
    assert status == 1
    assert "the model has no attention in blocks 2; choose other --layers" in err


def test_initial_tokens_can_be_kept(tmp_path, capsys):
    _, rows, _ = command(capsys, "attention", make(tmp_path / "s"), "--keep-initial", "--layers", 1)
    total = mass(1).sum(axis=0, dtype=np.float64)
    assert shares(rows, 1)["at-0"] == pytest.approx(total[0] / total.sum())


def test_the_image_part_begins_behind_what_begins_it(tmp_path, capsys):
    """Where the size of the image stands in between, it is of the image part."""
    store = make(tmp_path / "s", boi=1, starts=(START + 4,) * N, family="emu3")
    for option, start in ((), 2), (("--keep-boi",), 1), (("--keep-initial",), 0):
        status, rows, _ = command(capsys, "attention", store, *option, "--names", "image-size,eoi", "--layers", 1)
        assert status == 0
        total = mass(1)[:, start:].sum(axis=0, dtype=np.float64)
        size = total[START - start : START + 4 - start].sum() / total.sum()
        assert shares(rows, 1)["image-size"] == pytest.approx(size)
        assert next(row["positions"] for row in rows if row["name"] == "image-size") == 4


def test_what_stands_behind_the_begin_of_an_image_is_its_size_in_emu3_alone(tmp_path, capsys):
    """In Idefics 3 it is the number of a tile."""
    store = make(tmp_path / "s", boi=1, starts=(START + 4,) * N, family="generic")
    status, _, err = command(capsys, "attention", store, "--names", "image-size,eoi", "--layers", 1)
    assert status == 1
    assert "has a position 'image-size'" in err


def test_threshold(tmp_path, capsys):
    store = make(tmp_path / "s")
    _, rows, _ = command(capsys, "attention", store, "--threshold", "0.9")
    assert set(shares(rows, 0)) == {"last-image", "eoi", "internal image"}
    _, rows, _ = command(capsys, "attention", store, "--threshold", "0")
    assert len(shares(rows, 0)) == 2 + 6 + 1  # the strongest six, and the rest


def even(layer):
    """Share of each position of the image part."""
    total = mass(layer)[:, START:].sum(axis=0, dtype=np.float64)
    return total / total.sum()


ENDS = [
    6,
    13,
    20,
    27,
    34,
]  # of the lines of 6 rows of 6 image tokens, from the first image token; the last ends the image


@pytest.mark.parametrize(
    ("stored", "ends"), [({"grid": (6, 6)}, ENDS), ({"grid": (6, 6), "eol": (10, 12)}, [10 - START, 12 - START])]
)
def test_a_named_role_of_several_positions_is_one_band(tmp_path, capsys, stored, ends):
    store = make(tmp_path / "s", lengths=(41,) * N, eoi=False, **stored)
    _, rows, _ = command(capsys, "attention", store, "--names", "eol,at-5", "--threshold", 1)
    f = even(0)
    assert shares(rows, 0) == pytest.approx({
        "eol": f[ends].sum(), "at-5": f[5 - START], "internal image": 1 - f[ends].sum() - f[5 - START],
    })  # fmt: skip
    said = {row["name"]: (row["position"], row["positions"]) for row in rows}
    assert said == {"at-5": (5, 1), "eol": (None, len(ends)), "internal image": (None, 40 - len(ends))}


@pytest.mark.parametrize(
    ("image", "eoi", "ends"),
    [
        ((1, 19), 20, [5, 10, 15]),  # as Pixtral: what ends the last line ends the image
        ((6, 24), 27, [10, 15, 20, 25]),  # as Emu3: the last line ends like the others
        ((0, 22), None, [8, 13, 18]),  # as LLaVA-OneVision: behind four tokens of an overview
        ((2, 17), 18, []),  # as Chameleon: lines without ends
    ],
)
def test_ends_of_lines_follow_from_the_grid(tmp_path, image, eoi, ends):
    store = actstore.create(tmp_path / "s", plan=pl.DataFrame({"sample_id": ["a"]}), layers=[0], d_model=1)
    samples = {"image_start": [image[0]], "image_end": [image[1]], "grid_rows": [4], "grid_columns": [4], "eoi": [eoi]}
    samples = pl.DataFrame({"sample_id": ["a"], "status": ["ok"], "length": [30], **samples})
    rows = pl.DataFrame({"sample_id": ["a"], "role": ["last"], "k": [0]})
    store.write(0, samples=samples, rows=rows, residual={"last": np.zeros((1, 1, 1), np.float32)})
    assert sorted(bands.places(actstore.open(tmp_path / "s"), ["eol"])["position"]) == ends


def test_a_position_of_two_names_counts_under_the_first(tmp_path, capsys):
    store = make(tmp_path / "s")
    _, rows, _ = command(capsys, "attention", store, "--names", "at-41,last-image,end-image", "--threshold", 1)
    assert set(shares(rows, 0)) == {"at-41", "eoi", "internal image"}


def test_what_stands_at_other_places_in_other_samples_is_no_band(tmp_path, capsys):
    store = make(tmp_path / "s", starts=(START,) * 6 + (START - 1,) * 6, lengths=(IMAGE,) * 6 + (IMAGE - 1,) * 6)
    _, rows, err = command(capsys, "attention", store, "--names", "at-9,eoi", "--threshold", 1)
    assert set(shares(rows, 0)) == {"eoi", "internal image"}
    assert "condition 'none': at-9 is at other places in other samples; not set apart" in err


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ({"family": "chameleon", "blocks": 32}, {"at-32", "last-image", "eoi"}),
        ({"family": "chameleon", "blocks": 48}, {"first-image", "last-image", "eoi"}),
        ({"family": "chameleon"}, {"last-image", "eoi"}),
        ({"family": "pixtral", "starts": (START - 1,) * N, "grid": (6, 6)}, {"eol", "eoi"}),
        ({"family": "emu3"}, {"last-image", "eoi"}),
    ],
)
def test_without_names_those_of_the_paper_for_the_model(tmp_path, capsys, model, names):
    _, rows, err = command(capsys, "attention", make(tmp_path / "s", **model), "--threshold", 1, "--layers", 0)
    assert set(shares(rows, 0)) == {*names, "internal image"}
    assert "not set apart" not in err


def test_a_model_without_an_end_of_image_token(tmp_path, capsys):
    _, rows, _ = command(capsys, "attention", make(tmp_path / "s", eoi=False, lengths=(IMAGE + 1,) * N))
    assert set(shares(rows, 2)) == {"at-9", "last-image", "internal image"}
    assert sum(shares(rows, 2).values()) == pytest.approx(1)


def test_images_of_another_length_are_left_out_and_said(tmp_path, capsys):
    store = make(tmp_path / "s", lengths=(IMAGE,) * 9 + (IMAGE - 4,) * 3)
    _, rows, err = command(capsys, "attention", store)
    assert {row["n"] for row in rows} == {9}
    assert "measured 9 samples of 41 positions, left out 3" in err


def test_sql_chooses_samples(tmp_path, capsys):
    _, rows, _ = command(capsys, "attention", make(tmp_path / "s"), "from rows where label = 'b'", "--layers", 0)
    total = mass(0)[1::3, START:].sum(axis=0, dtype=np.float64)
    assert shares(rows, 0)["eoi"] == pytest.approx(total[-1] / total.sum())


def test_several_jobs_give_what_one_gives(tmp_path, capsys):
    store = make(tmp_path / "s")
    _, alone, _ = command(capsys, "attention", store)
    assert command(capsys, "attention", store, "--force", "--jobs", 2)[1] == alone


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"stored": ()}, [], "no attention mass is stored; extract it with: .* --set capture.mass=true"),
        (
            {"stored": ("eoi",)},
            [],
            "only attention to eoi, whose shares cannot be told without that to the rest of the image; extract it with",
        ),
        ({}, ["--names", "eoi,eol"], "no sample of .* has a position 'eol': boi, eoi, .* where they are stored: last"),
        ({}, ["from rows where label = 'z'"], "selects no samples with text after their image"),
        ({"layers": ()}, [], "keeps layer 3 alone, the output of the last block, where nothing attends; extract it"),
        ({}, ["--layers", "3"], r"layer 3 is the output of the last block, where nothing attends; take 0\.\.2"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, changes, arguments, message):
    assert run(["attention", str(make(tmp_path / "s", **changes)), *arguments]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_names_that_name_nothing(tmp_path, capsys):
    assert run(["attention", str(make(tmp_path / "s")), "--names", ","]) == 2
    assert "',' names nothing" in capsys.readouterr().err


def test_report_shows_it(tmp_path):
    store = make(tmp_path / "s")
    assert run(["attention", str(store)]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert ">Cross-modal attention" in page
    assert "up to 6 positions that draw more than 1 %" in page


def test_what_was_published_stands_pale_below(tmp_path, capsys):
    store = make(tmp_path / "s")
    status, _, err = command(capsys, "attention", store, "--figure", tmp_path / "f.svg", "--reference", "chameleon-7b")
    assert status == 0, err
    drawn = (tmp_path / "f.svg").read_text()
    said = re.findall(r'aria-label="([^"]*\(published, not measured here\))"', drawn)
    assert "block 31, eoi: share 0.443 (published, not measured here)" in said
    assert len(said) == 32 * 4
    assert "Chameleon-7B" in drawn
    own = re.findall(r'aria-label="(block 0, [^"]*positions?\))"', drawn)
    assert own == re.findall(r'aria-label="(block 0, [^"]*positions?\))"', drawn_alone(tmp_path, store, capsys))


def drawn_alone(tmp_path, store, capsys):
    command(capsys, "attention", store, "--figure", tmp_path / "alone.svg")
    return (tmp_path / "alone.svg").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reference", "chameleon-7b"), "it is drawn with --figure"),
        (("--reference", "emu3", "--figure", "f.png"), "--reference emu3: we do not have what was published of this"),
        (("--reference", "gpt"), "neither paper is about 'gpt', only about chameleon-7b"),
    ],
)
def test_a_reference_that_cannot_be_drawn_is_said(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    _, _, err = command(capsys, "attention", make(tmp_path / "s"), *words)
    assert said in err


def test_shares_less_those_of_another_store_leave_each_sample_out_of_both(tmp_path, capsys, monkeypatch):
    here, plain = make(tmp_path / "here"), mass
    monkeypatch.setitem(globals(), "mass", lambda layer: plain(layer) + 3 * np.eye(N, START + IMAGE + 1, 5))
    there = make(tmp_path / "there")
    sides = [plain(1)[:, START:].astype(float), mass(1)[:, START:].astype(float)]
    monkeypatch.undo()
    _, rows, _ = command(capsys, "attention", here, "--layers", 1, "--names", "last-image", "--minus-store", there)
    at = IMAGE - 1
    left = [np.array([np.delete(one[:, at], i).sum() / np.delete(one, i, axis=0).sum() for i in range(N)])
            for one in sides]  # fmt: skip
    change = np.subtract(*(one[:, at].sum() / one.sum() for one in sides))
    half = 1.959964 * np.sqrt((N - 1) / N * np.square(np.subtract(*left) - np.subtract(*left).mean()).sum())
    found = {row["name"]: row for row in rows}
    row = found["last-image"]
    ends = [row[name] for name in ("difference", "difference_low", "difference_high")]
    assert ends == pytest.approx([change, change - half, change + half], rel=1e-4)
    assert found["internal image"]["difference"] == pytest.approx(-change, rel=1e-4)
