"""Images cut into tiles, as a replay finds them in a store: by positions, modalities and the rules of the run card."""

import numpy as np
import polars as pl
import pytest

import actstore
import pictured
import tiny
from actstore.format.plan import prepare
from actstore_extract.families import Prompt
from actstore_extract.replay import Reader
from actstore_extract.replay.reader import stored
from actstore_extract.roles import Layout, parse_role
from actstore_extract.run.content import Taken, content

ALL = parse_role("all")


def kept(path, name: str, **card: object) -> tuple[Layout, Layout]:
    """The layout of a sample as it is encoded, and as it comes out of a store of its tokens."""
    prompt = Prompt("s", "this <image> digit is a", tiny.image(0, (112, 56)))
    layout = pictured.KINDS[name]().encode(prompt).layout
    everywhere = np.arange(layout.length)
    vectors = {"all": np.zeros((1, layout.length, 4), np.float32)}
    plan = prepare(pl.DataFrame({"sample_id": ["s"], "image": ["0"], "prompt": [prompt.text]}))
    found = content(plan, [Taken(layout, {ALL: everywhere}, vectors)])
    run = {"n_layers": 1, "dtype": "float32", "recipe": {"model": {}}, "weights_sha256": "", "seed": 0, **card}
    store = actstore.create(path, plan=plan, layers=[0], d_model=4, dtype="float32", run=run)
    store.write(0, **{kind: getattr(found, kind) for kind in ("samples", "rows", "residual")})
    return layout, stored(Reader(actstore.open(path)), ["s"])["s"].layout


@pytest.mark.parametrize("name", ["idefics2_split", "idefics3_split", "internvl_tiles", "mistral3", "ovis2"])
def test_a_replay_tells_tiles_from_lines(name: str, tmp_path) -> None:
    """What stands between the tiles of Idefics 2 is one token at equal distances, as line ends are."""
    encoded, found = kept(tmp_path / "s", name, rules_of_roles=2)
    for field in ("image", "eol", "machinery", "text", "text_before", "boi", "eoi"):
        np.testing.assert_array_equal(getattr(found, field), getattr(encoded, field), err_msg=field)


def test_by_the_first_rules_all_between_image_tokens_ended_lines(tmp_path) -> None:
    encoded, found = kept(tmp_path / "s", "idefics2_split")
    assert (len(encoded.eol), len(found.eol), len(found.machinery)) == (0, 4, 0)
