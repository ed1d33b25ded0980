"""Figures: what is drawn, that it reads in grey, and the files."""

import re
from collections import Counter
from itertools import pairwise

import altair as alt
import polars as pl
import pytest
from PIL import Image

from actstore.errors import ActstoreError
from actstore_analyze.attention.figure import PALE
from actstore_analyze.charts import charts, lines, stacks
from actstore_analyze.overlap.figure import ceiling, overlap
from actstore_analyze.published import curves

LAYERS = 5
ROLES = ("eoi", "last-image", "image")


def table(roles=ROLES, layers=LAYERS, first=0):
    """As `actstore overlap` makes it: eoi undefined at layer 0, image with a standard error."""
    rows = [
        {
            "role": role,
            "condition": "none",
            "layer": layer,
            "depth": layer / max(1, layers - 1),
            "overlap": float("nan") if (role, layer) == ("eoi", 0) else 0.1 + 0.12 * layer + 0.01 * i,
            "se": 0.02 if role == "image" else None,
            "positions": 16 if role == "image" else 1,
            "chance": 0.099,
            "neighbors": 10,
            "metric": "euclidean",
            "weights": "uniform",
            "n": 300,
        }
        for i, role in enumerate(roles)
        for layer in range(first, layers)
    ]
    return pl.DataFrame(rows, schema_overrides={"se": pl.Float64})


def points(drawing):
    """The texts of the points of a drawing."""
    return re.findall(r'aria-label="([^"]*: overlap [^"]*)"', drawing)


def test_every_point_says_its_values_and_undefined_ones_are_not_drawn():
    said = points(charts.svg(overlap(table(), title="tiny"), "a"))
    assert len(said) == 3 * LAYERS - 1
    assert "last-image, layer 2: overlap 0.350, chance 0.099, n = 300" in said
    assert "image, layer 2: overlap 0.360 ± 0.020 (se), chance 0.099, n = 300" in said
    assert not any(text.startswith("eoi, layer 0") for text in said)


def test_the_words_of_the_figure():
    drawing = charts.svg(overlap(table(), title="tiny model"), "a")
    words = re.findall(r">([^<>]+)</text>", drawing)
    for word in (
        "tiny model",
        "label overlap χ (k = 10)",
        "layer (0: embeddings)",
        "chance 0.099",
        *ROLES,
        "0",
        "1",
        "2",
        "3",
        "4",
    ):
        assert word in words
    before = table().rename({"neighbors": "k"})  # as 0.1.0 saved it
    assert charts.svg(overlap(before, title="tiny model"), "a") == drawing


def words(chart):
    return re.findall(r">([^<>]+)</t(?:ext|span)>", charts.svg(chart, "a"))


def test_a_figure_says_what_its_bands_are_and_whose_curves_are_pale():
    own = words(overlap(table(), title="t", reference=curves.overlap("chameleon-7b")))
    assert "n = 300 samples, euclidean distance; band: one standard error over positions" in own
    assert "pale: Chameleon-7B as published, at the same relative depth" in own
    assert "(read off its authors' page, to about 0.003)" in own
    alone = words(overlap(table(["eoi"]), title="t"))
    assert "n = 300 samples, euclidean distance" in alone
    nothing = words(overlap(table(["last"]), title="t", reference=curves.overlap("chameleon-7b")))
    assert not any("pale" in word for word in nothing)


def test_lines_differ_in_colour_shape_and_dash():
    styles = list(lines.STYLES.values())
    for values in ([s.colour for s in styles], [s.shape for s in styles], [s.dash for s in styles]):
        assert len(set(values)) == len(styles)


def test_a_role_keeps_its_style_and_unknown_roles_get_others():
    frame = pl.DataFrame({"role": ["at-32", "eoi", "eoi", "image"], "series": ["at-32", "eoi", "eoi, x", "image"]})
    styles = lines._styles(frame)
    assert styles["eoi"] == lines.STYLES["eoi"]
    assert styles["image"] == lines.STYLES["image"]
    assert len(set(styles.values())) == 4


def test_ids_of_two_drawings_do_not_meet():
    line = (
        alt.Chart(table().select("layer", "chance")).mark_line(clip=True).encode(x="layer:Q", y="chance:Q")
    )  # a clip path has an id
    one, other = (charts.svg(alt.layer(line), prefix) for prefix in ("one", "other"))
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert ids[0]
    assert all(name.startswith("one-") for name in ids[0])
    assert not ids[0] & ids[1]
    assert set(re.findall(r"url\(#([^)]+)\)", one)) == ids[0]


def test_reference_is_drawn_for_the_roles_of_the_table_only():
    said = points(charts.svg(overlap(table(), title="t", reference=curves.overlap("Chameleon-7B")), "a"))
    behind = [text for text in said if "published, not measured here" in text]
    assert len(behind) == 3 * 32
    assert not any("32nd" in text for text in behind)
    plain = overlap(table(), title="t")
    assert "published" not in charts.svg(plain, "a")


def test_reference_stops_where_the_layers_of_the_table_stop():
    half = table(layers=5).filter(pl.col("layer") <= 2)
    said = points(charts.svg(overlap(half, title="t", reference=curves.overlap("chameleon-7b")), "a"))
    depths = [float(match[1]) for text in said if (match := re.search(r"relative depth ([\d.]+)", text))]
    assert depths
    assert max(depths) == 0.5


def test_a_reference_of_another_chance_level_says_so_and_draws_it():
    assert pytest.approx(100 * 100 * 99 / (10_000 * 9_999)) == curves.CHANCE  # random neighbours of 100 x 100 images
    drawing = charts.svg(overlap(table(), title="t", reference=curves.overlap("chameleon-7b")), "a")
    assert ">published chance 0.010</text>" in drawing
    assert ">its chance is 0.010, here 0.099: compare shapes over depth, not heights<" in drawing
    same = charts.svg(
        overlap(table().with_columns(chance=0.0099), title="t", reference=curves.overlap("chameleon-7b")), "a"
    )
    assert "published chance" not in same
    assert "compare shapes" not in same


def test_bands_are_inside_the_axis():
    interval = table().with_columns(low=pl.lit(0.05), high=pl.lit(0.93))
    assert ceiling([interval]) >= 0.93
    assert ceiling([table().with_columns(se=pl.lit(0.3))]) >= 0.61 + 0.3
    assert ceiling([table()]) < 0.9


def test_published_numbers_are_the_papers():
    curve = curves.overlap("chameleon-7b")
    assert dict(curve["series"].value_counts().iter_rows())["[EOI]"] == 32
    medians = curves.gap("chameleon-34b")
    assert medians["layer"].to_list() == list(range(1, 49))
    assert medians["value"][0] == 0.0771
    assert curves.homogeneity("chameleon-7b")["value"].min() > 0.9
    peaks = {(model, series): value for model, series, value, *_ in curves.peaks().iter_rows()}
    assert peaks["Chameleon-7B", "[EOI]"] == pytest.approx(0.475, abs=0.001)
    assert peaks["Chameleon-7B", "internal image"] == pytest.approx(0.20, abs=0.001)
    assert peaks["Chameleon-7B", "last image"] == pytest.approx(0.026, abs=0.001)
    assert peaks["Pixtral-12B", "[EOI]"] == pytest.approx(0.34, abs=0.001)
    assert len(peaks) == 8
    with pytest.raises(ActstoreError, match=r"neither paper is about 'camelon-7b'.*did you mean 'chameleon-7b'\?"):
        curves.overlap("camelon-7b")


def test_files(tmp_path):
    chart = charts.beside([overlap(table(), title=name, end=0.8) for name in ("one", "two")])
    png, svg, pdf, csv = charts.save(chart, table(), tmp_path / "new", "overlap")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().startswith("<svg")
    assert pdf.read_bytes().startswith(b"%PDF")
    kept = pl.read_csv(csv)
    assert kept.columns == table().columns
    assert kept.height == 3 * LAYERS
    (tmp_path / "taken").write_text("")
    with pytest.raises(ActstoreError, match="overlap.png: cannot be written: .*taken is no folder"):
        charts.save(chart, table(), tmp_path / "taken", "overlap")


@pytest.mark.parametrize(
    "frame",
    [table(layers=33), table(roles=("eoi",), layers=1), table(layers=8, first=7)],
    ids=["33 layers", "one layer, undefined", "one layer"],
)
def test_unusual_tables_are_drawn(frame):
    drawing = charts.svg(overlap(frame, title="t"), "a")
    ticks = re.findall(r">(\d+)</text>", drawing)
    assert 1 <= len(ticks) <= 12


def test_text_of_a_store_cannot_leave_the_drawing():
    odd = table(("eoi",)).with_columns(condition=pl.lit('"><script>x</script>'))
    drawing = charts.svg(overlap(odd, title="<script>y</script>"), "a")
    assert "<script" not in drawing
    assert points(drawing)


def test_conditions_are_lines_of_their_own():
    both = pl.concat([table(("eoi",)), table(("eoi",)).with_columns(condition=pl.lit("knockout"))])
    drawing = charts.svg(overlap(both, title="t"), "a")
    assert ">eoi, knockout</text>" in drawing
    assert len(points(drawing)) == 2 * (LAYERS - 1)


def test_charts_beside_each_other_keep_their_own_colours():
    """Vega would merge their scales: then a line of one chart has the colour of another's."""
    alone = [overlap(table(roles), title="tiny") for roles in (("eoi", "last-image"), ("zebra", "eoi", "yak"))]
    together = charts.svg(charts.beside(alone), "a")
    for role in ("zebra", "yak"):
        drawn = rf'aria-label="{role}, layer 2[^"]*"[^>]* d="([^"]+)" fill="(#[0-9a-fA-F]+)"'
        assert re.findall(drawn, together) == re.findall(drawn, charts.svg(alone[1], "a")) != []


BANDS = ["internal image", "at-32", "last-image", "eoi"]


def stack(opacity):
    """As many shares as the paper's, all of one size."""
    shares = pl.DataFrame({"name": BANDS * 3, "layer": [0, 1, 2] * 4, "share": 0.25, "text": "t"})
    return stacks.stacked(shares, y_title="share", background=BANDS[0], opacity=opacity)


@pytest.mark.parametrize("opacity", [1, PALE])
def test_the_shares_of_a_stack_part_in_grey(tmp_path, opacity):
    charts.draw(stack(opacity), tmp_path / "f.png")
    greys = Counter(Image.open(tmp_path / "f.png").convert("L").tobytes())
    shares = sorted(grey for grey, _ in (greys - Counter({255: greys[255]})).most_common(4))
    assert min(b - a for a, b in pairwise(shares)) > 45


def test_neighbours_in_a_stack_of_many_shares_part_in_grey():
    greys = [Image.new("RGB", (1, 1), fill).convert("L").getpixel((0, 0)) for fill in stacks.FILLS]
    assert min(abs(a - b) for a, b in zip(greys, [*greys[1:], greys[0]], strict=True)) > 60
    background = Image.new("RGB", (1, 1), stacks.BACKGROUND).convert("L").getpixel((0, 0))
    assert background - max(greys) > 40


def test_a_share_is_named_by_a_mark_that_looks_like_it():
    marks = [one["mark"] for one in stack(0.7).to_dict()["layer"]]
    assert [mark["opacity"] for mark in marks if mark["type"] in ("bar", "point")] == [0.7] * 5


def test_control_characters_are_drawn_as_they_are_written(tmp_path):
    chart = overlap(table(roles=("eoi", "a\x07\x1b[1m")), title="🐈 \\x07 \x00\ud800")
    drawing = charts.svg(chart, "a")
    assert {"🐈 \\x07 \\x00\\ud800", "a\\x07\\x1b[1m"} <= set(re.findall(r">([^<>]+)</text>", drawing))
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", drawing)
    charts.draw(chart, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[0] > 100
