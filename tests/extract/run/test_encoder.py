import threading

import polars as pl
import pytest

from actstore.errors import ActstoreError
from actstore_extract.families import Encoded
from actstore_extract.pictures import PictureError
from actstore_extract.run.encoder import Encoder


class Slow:
    """A model that encodes a sample when it may, and remembers in which thread it did."""

    def __init__(self):
        self.may, self.threads = threading.Event(), {}

    def encode(self, prompt):
        if prompt.sample_id.startswith("slow"):
            assert self.may.wait(30)
        self.threads.setdefault(prompt.sample_id, []).append(threading.current_thread().name)
        return Encoded(prompt.sample_id, {}, None)


X = {"sample_id": "a", "prompt": "a", "image": "x.png"}


@pytest.fixture
def model():
    return Slow()


def plan(*names):
    return pl.DataFrame({"sample_id": names, "prompt": "a", "image": None}, schema_overrides={"image": pl.String})


def encoded(encoder, name):
    return encoder.encode({"sample_id": name, "prompt": "a", "image": None}).sample_id


def test_others_encode_while_the_caller_does_something_else(model):
    encoder = Encoder(model, None, room=8)
    encoder.ahead(plan("slow-0", "slow-1", "c"))
    assert model.threads == {}  # the caller did not wait
    assert encoded(encoder, "other") == "other"  # nor does it, for what is not in line
    model.may.set()
    assert [encoded(encoder, name) for name in ("slow-0", "slow-1")] == ["slow-0", "slow-1"]
    assert all(name.startswith("encoder") for i in range(2) for name in model.threads[f"slow-{i}"])


def test_what_no_thread_has_begun_is_done_by_the_caller(model):
    encoder = Encoder(model, None, room=8)
    encoder.ahead(plan("slow-0", "slow-1", "c"))  # as many as there are threads, and one that waits
    assert encoded(encoder, "c") == "c"
    assert model.threads == {"c": [threading.current_thread().name]}
    model.may.set()


def test_each_sample_is_encoded_once_while_there_is_room(model):
    encoder = Encoder(model, None, room=2)
    for name in ("a", "b", "a", "b", "c", "b", "a"):
        assert encoded(encoder, name) == name
    encoder.ahead(plan("c", "a"))
    assert {name: len(threads) for name, threads in model.threads.items()} == {"a": 2, "b": 1, "c": 1}


def test_what_has_not_begun_is_dropped(model):
    encoder = Encoder(model, None, room=8)
    encoder.ahead(plan("slow-0", "slow-1", "c", "d"))
    encoder.drop()
    model.may.set()
    encoder._pool.shutdown()
    assert set(model.threads) <= {"slow-0", "slow-1"}


def test_a_bad_image_is_a_reason(model):
    def image(name):
        raise PictureError(f"cannot identify {name}")

    encoder = Encoder(model, image, room=8)
    encoder.ahead(plan("a").with_columns(image=pl.lit("x.png")))
    assert encoder.encode(X) == "image x.png: cannot identify x.png"


def test_an_error_that_is_no_samples_fault_reaches_the_caller(model):
    def gone(name):
        raise ActstoreError("the data set is gone")

    encoder = Encoder(model, gone, room=8)
    encoder.ahead(plan("a").with_columns(image=pl.lit("x.png")))
    with pytest.raises(ActstoreError, match="the data set is gone"):
        encoder.encode(X)


def test_an_error_that_nobody_expects_is_tried_once_more_and_then_is_of_the_sample(model):
    asked = []

    def broken(name):
        asked.append(name)
        raise TypeError("no picture\nat all")

    encoder = Encoder(model, broken, room=8)
    assert [encoder.encode(X) for _ in range(2)] == ["TypeError: no picture at all"] * 2
    assert asked == ["x.png"] * 2
    asked.clear()
    encoder.ahead(plan("b").with_columns(image=pl.lit("y.png")))
    assert encoder.encode(X | {"sample_id": "b", "image": "y.png"}) == "TypeError: no picture at all"
    assert asked == ["y.png"] * 2
