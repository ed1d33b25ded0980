"""A small store of labelled vectors, made with numpy: eoi with one vector a sample, image with three."""

import numpy as np
import polars as pl

import actstore
from actstore_analyze.study.intervals import LeftOut, signs

N, D, POSITIONS = 60, 8, 3
LAYERS = (0, 1, 2)
DIGITS = ["zero", "one", "two"]


def vectors(role, layer, positions=1):
    """(N, positions, D): constant at layer 0 for eoi, else classes that part with depth."""
    rng = np.random.default_rng([layer, positions, len(role)])
    centres = 0.4 * layer * rng.standard_normal((3, positions, D))
    x = centres[np.arange(N) % 3] + rng.standard_normal((N, positions, D))
    return np.ones_like(x) if role == "eoi" and layer == 0 else x


def overlaps_left(x, y, k, asked=None):
    """Label overlap without each sample, and what pairs do to it: in the place of one that is left out stands the mean
    of the others among ten, or k.
    """
    n = len(x)
    asked = [*range(n)] if asked is None else [*asked]
    away = np.square(x[:, None].astype(float) - x[None]).sum(axis=2) + np.diag([np.inf] * n)
    ten = {own: np.argsort(away[own], kind="stable")[: min(max(k, 10), n - 1)].tolist() for own in asked}

    def alike(own, j):
        return float(y[own] == y[j])

    def others(own, i):
        return np.mean([alike(own, j) for j in ten[own] if j != i])

    def share(own, i):
        return np.mean([others(own, i) if j == i else alike(own, j) for j in ten[own][:k]])

    without = np.array([np.mean([share(own, i) for own in asked if own != i]) for i in range(n)])
    beyond = np.zeros((n, n))
    for own in asked:
        for j in ten[own][:k]:
            beyond[own, j] += (alike(own, j) - others(own, j)) / (len(asked) * k)
    drawn, known = np.concatenate([*signs(n)], axis=1).astype(float), len(ten[asked[0]])
    return LeftOut(without, np.einsum("id,ij,jd->d", drawn, beyond, drawn) * np.sqrt((known - 1) / known))


def sample_ids(first=0, count=N):
    return [f"s{i:03}" for i in range(first, first + count)]


def write_batch(store, number, first, count):
    """One batch: eoi with one vector per sample, image with POSITIONS."""
    chosen = slice(first, first + count)
    per_role = {"eoi": 1, "image": POSITIONS}
    rows = [
        {"sample_id": sample, "role": role, "k": k, "position": k, "token_id": 7, "modality": "image"}
        for role, positions in per_role.items()
        for sample in sample_ids(first, count)
        for k in range(positions)
    ]
    residual = {
        role: np.stack([vectors(role, layer, positions)[chosen].reshape(-1, D) for layer in LAYERS])
        for role, positions in per_role.items()
    }
    said = [DIGITS[i % 3] if i % 10 else "nine" for i in range(first, first + count)]
    samples = pl.DataFrame({"sample_id": sample_ids(first, count), "status": "ok", "next_token": said})
    store.write(number, samples=samples, rows=pl.DataFrame(rows), residual=residual)


def make_store(path, batches=2, labels=None, **members):
    """A store of two batches, of which some are written; `members` of its run card."""
    plan = pl.DataFrame(
        {
            "batch": [0] * 40 + [1] * 20,
            "sample_id": sample_ids(),
            "label": labels or [DIGITS[i % 3] for i in range(N)],
            "split": ["train" if i % 2 else "test" for i in range(N)],
        }
    )
    card = {"model": "tiny", "n_layers": 4, "seed": 0, "versions": {"numpy": np.__version__}, **members}
    store = actstore.create(path, plan=plan, layers=LAYERS, d_model=D, dtype="float32", run=card)
    for number, (first, count) in enumerate([(0, 40), (40, 20)][:batches]):
        write_batch(store, number, first, count)
    return path
