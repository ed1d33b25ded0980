"""A small store with all that can be shown, made with numpy: pictures, attention, a lens, two conditions."""

from io import BytesIO

import numpy as np
import polars as pl
from PIL import Image

import actstore
import lenses
from actstore.format import thumbnails
from actstore_analyze.sae.source import source

N, D = 24, lenses.D
LAYERS = (0, 1, 2)
LABELS = ("cat", "dog", "<b>")
GRID = (2, 2)
LENGTH = 8  # <s>, four image tokens, the end of the image at 5, text at 6 and 7
AT = {"image": (1, 2, 3, 4), "eoi": (5,), "last": (7,)}
VOCABULARY = {i: f"w{i}" for i in range(lenses.TOKENS)} | {7: "cat", 8: "dog"}
CARD = {"model": "tiny", "n_layers": 2, "settings": {"preprocessor_config.json: do_center_crop": True}}


def vectors(role):
    """(layers, N * positions, D): classes part with depth; of `eoi` all are one point at layer 0."""
    rng = np.random.default_rng(list(AT).index(role))
    n = N * len(AT[role])
    classes = np.repeat(np.arange(N) % 3, len(AT[role]))
    x = np.stack([rng.standard_normal((n, D)) + np.eye(D)[classes] * 5 * layer for layer in LAYERS])
    if role == "eoi":
        x[0] = 1.0
    return x.astype(np.float32)


def mass():
    """(layers, N, keys): of sample i at layer l its cell (i + l) % 4 draws most; nothing reads the last layer."""
    found = np.full((len(LAYERS), N, 6), 0.125, np.float32)
    for layer in LAYERS:
        for i in range(N):
            found[layer, i, 1 + (i + layer) % 4] = 0.5
    found[-1] = np.nan
    return found


def picture(i):
    """WebP of a picture, no two alike."""
    drawn = BytesIO()
    Image.new("RGB", (8, 8), (10 * i, 255 - 10 * i, 40)).save(drawn, "WEBP", lossless=True)
    return drawn.getvalue()


def make(path, *, kept=True, image_from=0):
    """One batch of N samples, the last of which failed; without what `kept` keeps, vectors of `eoi` alone.

    image_from: the layer at which image tokens come in.
    """
    names = [f"s{i:02}" for i in range(N)]
    plan = pl.DataFrame(
        {
            "sample_id": names,
            "image": [f"{name}.png" for name in names],
            "label": [LABELS[i % 3] for i in range(N)],
            "split": ["train" if i < 16 else "test" for i in range(N)],
            "prompt": ["<image>what is it"] * N,
        }
    )
    store = actstore.create(
        *(path,),
        plan=plan,
        layers=LAYERS,
        d_model=D,
        dtype="float32",
        run=CARD,
        vocabulary=VOCABULARY,
        lens=lenses.made() if kept else None,
        image_from=image_from,
    )
    done = N - 1
    roles = AT if kept else {"eoi": (5,)}
    rows = [
        (name, role, k, at, 5 + at, "image" if role == "image" else "text")
        for role in roles
        for name in names[:done]
        for k, at in enumerate(AT[role])
    ]
    samples = {
        "sample_id": names,
        "status": ["ok"] * done + ["failed"],
        "error": [None] * done + ["not a picture"],
        "length": [LENGTH] * done + [None],
        "image_start": [1] * done + [None],
        "image_end": [4] * done + [None],
        "grid_rows": [2] * done + [None],
        "grid_columns": [2] * done + [None],
    }
    if kept:
        said = ["cat" if i % 4 else "dog" for i in range(done)]
        samples |= {
            "next_token": [*said, None],
            "top_tokens": [*([one, "w9"] for one in said), None],
            "top_probabilities": [*([0.5, 0.25] for _ in said), None],
            "generated_text": [*(f"a {one}" for one in said), None],
        }
    store.write(
        0,
        samples=pl.DataFrame(samples),
        rows=pl.DataFrame(rows, schema=["sample_id", "role", "k", "position", "token_id", "modality"], orient="row"),
        residual={role: _from(vectors(role), role, image_from)[:, : done * len(AT[role])] for role in roles},
        attention={"mass": _failed(mass())} if kept else {},
        attention_dtype="float32",
    )
    opened = actstore.open(path)
    if kept:
        webp = [(f"{name}.png", 8, 8, picture(i), None) for i, name in enumerate(names)]
        opened.save_result(
            thumbnails.MEASURE, pl.DataFrame(webp, schema=thumbnails.COLUMNS, orient="row"), {"pixels": 96}
        )
    return actstore.open(path)


def _from(x, role, layer):
    x[:layer] = np.nan if role == "image" else x[:layer]
    return x


def _failed(attention):
    attention[:, -1] = np.nan
    return attention


def encoders(folder):
    """Autoencoders with twelve features of the output of block 0: a release's path, and what encodes."""
    rng = np.random.default_rng(1)
    d, n = lenses.D, 12
    shapes = {"W_enc": (d, n), "b_enc": (n,), "W_dec": (n, d), "b_dec": (d,), "threshold": (n,)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    (folder / "layer_0").mkdir()
    np.savez(folder / "layer_0" / "params.npz", **weights)

    def active(x):
        raw = x @ weights["W_enc"] + weights["b_enc"]
        return np.where(raw > np.maximum(weights["threshold"], 0), raw, 0)

    return source(str(folder)), active
