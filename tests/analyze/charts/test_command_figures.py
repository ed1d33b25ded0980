"""Figures that gap, cluster and dimension draw of a store."""

import re

import pytest

from actstore.commands.main import run

RESIDUAL = "layer (0: embeddings)"


@pytest.mark.parametrize("name", ["gap", "cluster", "dimension"])
def test_figures_say_their_values(store, tmp_path, capsys, name):
    options = ["--rank", "8"] if name == "dimension" else ["--reference", "pixtral-12b"]
    assert run([name, str(store), "--figure", str(tmp_path / "f.svg"), *options]) == 0
    drawing = (tmp_path / "f.svg").read_text()
    said = re.findall(r'aria-label="([^"]*layer 2: [^"]*)"', drawing)
    said = [text for text in said if "published" not in text]
    assert said
    assert all(re.search(r"(cosine|homogeneity|dimension) -?\d", text) for text in said)
    whose = "pale: Pixtral-12B as published, at the same relative depth"
    assert (whose in drawing) == (name != "dimension")


@pytest.mark.parametrize(
    ("words", "titles"),
    [
        (["overlap"], {RESIDUAL}),
        (["gap"], {RESIDUAL}),
        (["cluster", "--no-interval"], {RESIDUAL}),
        (["dimension"], {RESIDUAL}),
        (["outliers"], {RESIDUAL}),
        (["probe"], {RESIDUAL}),
        (["cka", "--roles", "eoi"], {f"eoi, {RESIDUAL}"}),
    ],
)
def test_layers_are_titled_as_points_of_the_residual_stream(store, tmp_path, words, titles):
    assert run([words[0], str(store), *words[1:], "--figure", str(tmp_path / "f.svg")]) == 0
    found = set(re.findall(r"[XY]-axis titled '([^']*)'", (tmp_path / "f.svg").read_text()))
    assert {title for title in found if re.search("layer|block", title)} == titles
