"""A small store of samples under knockouts, made with numpy."""

import numpy as np
import polars as pl

import actstore

N, D, BLOCKS = 40, 4, 2
MODEL = "facebook/chameleon-7b"
CAPTIONS = [
    ["a cat sits", "one cat"],
    ["the dog runs", "a dog"],
    ["a red bus", "bus on a road"],
    ["two birds fly", "birds"],
]


def block(keys, layers, mode="post"):
    return [{"queries": ["text"], "keys": [keys], "layers": layers, "mode": mode}]


CONDITIONS = {
    "none": [],
    "eoi-knockout-w1": block("eoi", [1]),
    "eoi-knockout-w2": block("eoi", [0, 1]),
    "early": block("eoi", [0]),
    "random-image-3-knockout-r1": block("random-image-3", [0, 1]),
    "random-image-3-knockout-r2": block("random-image-3", [0, 1]),
    "eoi-patch-l0": [{"role": "eoi", "point": "residual", "layers": [0], "pairs": [["a", "b"]], "by": "label"}],
}


def number(condition):
    return list(CONDITIONS).index(condition) if condition in CONDITIONS else 0


def vectors(condition):
    """(N, D): classes that part less and less."""
    rng = np.random.default_rng(number(condition))
    parted = {"none": 3.0, "eoi-knockout-w1": 1.0, "eoi-knockout-w2": 0.0}.get(condition, 0.5)
    return (parted * np.repeat(np.eye(2, D), N // 2, axis=0) + rng.standard_normal((N, D))).astype(np.float32)


def said(condition):
    """The next token of each sample: the label, but for as many first samples as the condition's number."""
    return ["x" if i < number(condition) else ["a", "b"][i // (N // 2)] for i in range(N)]


def make_store(
    path,
    *,
    labels=True,
    texts=False,
    conditions=CONDITIONS,
    answers=("a", "b"),
    source="coco",
    layers=(0, 2),
    model=MODEL,
):
    ids = [f"s{i:02}" for i in range(N)]
    own = {"label": ["a"] * (N // 2) + ["b"] * (N // 2)} if labels else {}
    if texts:
        own["captions"] = [CAPTIONS[i % 4] for i in range(N)]
        own["answers"] = [[CAPTIONS[i % 4][0]] * (i % 5) + ["no"] * (10 - i % 5) for i in range(N)]
    plan = pl.concat(pl.DataFrame({"sample_id": ids, "condition": [name] * N, **own}) for name in conditions)
    card = {
        "model": model,
        "n_layers": BLOCKS,
        "conditions": conditions,
        "recipe": {"samples": {"source": source}, "capture": {"answers": list(answers)}},
    }
    store = actstore.create(
        path, plan=plan, layers=layers, d_model=D, dtype="float32", run=card, vocabulary={1: "a", 2: "b"}
    )
    p = [[0.5 + i / 100, 0.1] for i in range(N)]
    samples = pl.concat(
        pl.DataFrame(
            {
                "sample_id": ids,
                "condition": [name] * N,
                "next_token": said(name),
                "answer_probabilities": p,
                "generated_text": [f"{CAPTIONS[(i + j) % 4][0]}" for i in range(N)] if texts else None,
            },
            schema_overrides={"generated_text": pl.String},
        )
        for j, name in enumerate(conditions)
    )
    rows = samples.select("sample_id", "condition", role=pl.lit("last"))
    x = np.concatenate([vectors(name) for name in conditions])
    store.write(0, samples=samples, rows=rows, residual={"last": np.stack([np.zeros_like(x), x])})
    return path
