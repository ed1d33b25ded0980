"""Small stores whose samples are partly the same, made with numpy, to be looked at beside each other."""

import numpy as np
import polars as pl

import actstore

D = 6
CLASSES = ("cat", "dog", "owl")


def names(samples):
    """Of the samples by their numbers."""
    return [f"s{i:02}" for i in samples]


def vectors(samples, role, condition, layers, k=1):
    """(layers, samples * k, D): classes that part with depth, from 8 on as far apart as not to touch."""
    rng = np.random.default_rng([len(samples), len(role), len(condition), layers[-1]])
    classes = np.repeat(np.array(samples) % 3, k)
    x = [rng.standard_normal((len(classes), D)) + np.eye(D)[classes] * 10 * layer / layers[-1] for layer in layers]
    return np.stack(x).astype(np.float32)


def make(
    path, *, layers, depth, samples=range(30), conditions=("none",), roles=("eoi", "last"), model="tiny", without=()
):
    """One batch of these samples under each condition; role `image` has two positions, the others one each.

    Every seventh sample has no label, nor have those of the classes that the store is `without`.
    """
    ids = names(samples)
    plan = pl.DataFrame(
        {
            "sample_id": ids * len(conditions),
            "condition": [one for one in conditions for _ in ids],
            "label": [None if i % 7 == 6 or CLASSES[i % 3] in without else CLASSES[i % 3] for i in samples]
            * len(conditions),
            "length": [float(i) for i in samples] * len(conditions),
        }
    ).rename({"length": "size"})
    run = {"model": model, "n_layers": depth}
    store = actstore.create(path, plan=plan, layers=layers, d_model=D, dtype="float32", run=run)
    rows = [
        (name, condition, role, k, 10 * list(roles).index(role) + k)
        for role in roles
        for condition in conditions
        for name in ids
        for k in range(positions(role))
    ]
    said = [CLASSES[(i + (i % 5 == 0)) % 3] for i in samples] * len(conditions)
    store.write(
        0,
        samples=plan.select("sample_id", "condition", status=pl.lit("ok"), next_token=pl.Series(said)),
        rows=pl.DataFrame(rows, schema=["sample_id", "condition", "role", "k", "position"], orient="row"),
        residual={
            role: np.concatenate([vectors(samples, role, one, layers, positions(role)) for one in conditions], axis=1)
            for role in roles
        },
    )
    return actstore.open(path)


def positions(role):
    """Of a role in a sample."""
    return 2 if role == "image" else 1
