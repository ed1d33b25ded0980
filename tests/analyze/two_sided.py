"""A small store with prompts in both orders, made with numpy: text and image vectors that part with depth."""

import json
import multiprocessing
import os
import signal
import time

import numpy as np
import polars as pl

import actstore
from actstore.commands.main import run

N, D = 80, 6
LAYERS = (0, 1, 2)
ORDERS = ("image-text", "text-image")
ROLES = ("random-text", "random-image", "eoi")


def vectors(role, order, layer):
    """(N, D): the modalities lie apart at layer 2; eoi is constant at layer 0; two classes of samples."""
    rng = np.random.default_rng([layer, ROLES.index(role), ORDERS.index(order)])
    centre = np.zeros(D)
    centre[0] = {"random-text": 9, "random-image": -9, "eoi": 0}[role] * (layer == 2)
    classes = np.outer(np.arange(N) % 2, np.eye(D)[1]) * 4 * layer
    x = centre + classes + rng.standard_normal((N, D)) + 3
    return (np.ones((N, D)) if role == "eoi" and layer == 0 else x).astype(np.float32)


def both(layer):
    """Text of image-text prompts, image of text-image prompts."""
    return vectors("random-text", "image-text", layer), vectors("random-image", "text-image", layer)


def make(path, **changes):
    """One batch of N samples, each as a prompt in either order."""
    samples = [
        (f"s{i:03}/{order}", order, "ab"[i % 2], "train" if i < 60 else "test") for order in ORDERS for i in range(N)
    ]
    plan = pl.DataFrame(samples, schema=["sample_id", "prompt_order", "label", "split"], orient="row")
    card = {"model": "tiny", "n_layers": 2}
    store = actstore.create(path, plan=plan, layers=LAYERS, d_model=D, dtype="float32", run=card)
    modality = {"random-text": "text", "random-image": "image", "eoi": "special"}
    rows = pl.DataFrame(
        [(one, role, 0, modality[role]) for role in ROLES for one, *_ in samples],
        schema=["sample_id", "role", "k", "modality"],
        orient="row",
    )
    residual = {
        role: np.stack([np.concatenate([vectors(role, order, layer) for order in ORDERS]) for layer in LAYERS])
        for role in ROLES
    }
    content = {"samples": plan.select("sample_id", pl.lit("ok").alias("status")), "rows": rows, "residual": residual}
    store.write(0, **content | changes)
    return path


def command(capsys, *arguments):
    """Exit status, the table, and what was said on standard error."""
    status = run([*map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


def committed(store, unit):
    """A job that says how much of the store it sees."""
    return len(store.commits), unit


def squared(store, unit):
    """A job that another process can import."""
    return len(store.roles), unit**2


def dying(store, unit):
    """A job that ends its process."""
    os._exit(3)


def killed_once(store, unit):
    """A job whose process is killed over number 2, the first time."""
    mark, number = unit
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def counted(_, unit):
    """A table of a unit, whose file says how often it was asked."""
    mark, number = unit
    with mark.open("a") as file:
        file.write(f"{number}\n")
    return pl.DataFrame({"number": [number], "root": [number**0.5]})


def slow(store, unit):
    """The same, in its time."""
    time.sleep(0.3)
    return counted(store, unit)


def resting(_, unit):
    """A unit that takes ten minutes, with a lock in hand; the file that it names says that it began."""
    with multiprocessing.Lock():
        unit.touch()
        time.sleep(600)
