"""A small store of samples under patches, made with numpy."""

import numpy as np
import polars as pl

import actstore

N, BLOCKS = 12, 2  # receivers, of two classes; layers 0..2
PAIRS = [["cat", "dog"], ["red", "blue"]]  # source, receiver
CLASSES = ["cat", "dog", "red", "blue"]


def patch(point, layers, role="eoi"):
    return [{"role": role, "point": point, "layers": layers, "pairs": PAIRS, "by": "label"}]


CONDITIONS = {
    "none": [],
    **{f"eoi-patch-l{layer}": patch("residual", [layer]) for layer in range(BLOCKS + 1)},
    **{f"deep-l{layer}": patch("attention-input", list(range(layer, BLOCKS))) for layer in range(BLOCKS)},
}


def numbers(condition):
    """Similarity (N,) and probabilities (N, 4) of CLASSES; at the last residual layer they are those of none."""
    place = 0 if condition == "eoi-patch-l2" else list(CONDITIONS).index(condition)
    rng = np.random.default_rng(place)
    return rng.uniform(0, 1, N).astype(np.float32), rng.dirichlet(np.ones(5), N)[:, :4].astype(np.float32)


def make_store(path, *, conditions=CONDITIONS, answers=CLASSES, same=(), pairs=PAIRS, layers=(0, 1, 2)):
    ids = [f"r{i:02}" for i in range(N)]
    label = ["dog", "blue"] * (N // 2)
    source = [{b: a for a, b in pairs}[one] for one in label]
    own = {"sample_id": ids, "label": label}
    plans = [
        pl.DataFrame(
            {**own, "condition": [name] * N, "source_label": [None] * N if name == "none" else source},
            schema_overrides={"source_label": pl.String},
        )
        for name in conditions
    ]
    card = {
        "model": "m", "n_layers": BLOCKS, "conditions": conditions, "recipe": {"capture": {"answers": answers}},
    }  # fmt: skip
    store = actstore.create(path, plan=pl.concat(plans), layers=layers, d_model=2, dtype="float32", run=card)
    samples = []
    for name in conditions:
        similarity, p = numbers(name)
        for one, other in same:
            p[:, CLASSES.index(one)] = p[:, CLASSES.index(other)]
        samples.append(
            pl.DataFrame(
                {
                    "sample_id": ids,
                    "condition": [name] * N,
                    "source_similarity": similarity if name != "none" else [None] * N,
                    "answer_probabilities": p.tolist() if answers else None,
                },
                schema={
                    "sample_id": pl.String, "condition": pl.String,
                    "source_similarity": pl.Float32, "answer_probabilities": pl.List(pl.Float32),
                },
            )
        )  # fmt: skip
    rows = pl.concat(samples).select("sample_id", "condition", role=pl.lit("eoi"))
    store.write(
        0, samples=pl.concat(samples), rows=rows, residual={"eoi": np.ones((len(layers), rows.height, 2), np.float32)}
    )
    return actstore.open(path)
