"""Results of earlier versions, with intervals by other methods: they say so, and do not answer for this version's."""

import pytest

import actstore
from actstore_analyze.overlap.study import Overlap
from actstore_analyze.probe.study import Probe
from labelled import make_store
from two_sided import command

EARLIER = {"overlap": "jackknife", "probe": "samples", "dimension": "an older one"}


@pytest.mark.parametrize("verb", EARLIER)
def test_an_interval_of_an_earlier_method_is_computed_again(tmp_path, capsys, monkeypatch, verb):
    from actstore_analyze.registry import load

    study, path = load(verb).study, make_store(tmp_path / "store")
    now = [field.default for field in study.__dataclass_fields__.values() if field.name == "interval"]
    ask = [verb, path, "--roles", "eoi", "--layers", 2, *(["-k", 5] if verb == "overlap" else [])]
    with monkeypatch.context() as earlier:
        earlier.setattr(study.__dataclass_fields__["interval"], "default", EARLIER[verb])
        earlier.setattr(study.__init__, "__kwdefaults__", study.__init__.__kwdefaults__ | {"interval": EARLIER[verb]})
        assert "saved as" in command(capsys, *ask)[2]
        assert "recalled" in command(capsys, *ask)[2]
    assert "saved as" in command(capsys, *ask)[2]
    assert "recalled" in command(capsys, *ask)[2]
    kept = [one.parameters["interval"] for one in actstore.open(path).results()]
    assert sorted(kept) == sorted([EARLIER[verb], *now])


def test_methods_say_whose_intervals_they_are():
    def of(interval, **asked):
        return Overlap(layers=(1,), roles=("eoi",), interval=interval, **asked).methods

    assert "what comes of pairs counted once" in of("jackknife, pairs once")
    assert "are those of an earlier version, called “jackknife”" in of("jackknife")
    assert "nterval" not in of("none") + of("jackknife", unique=True) + of("jackknife, pairs once", weights="class")
    assert "as if these were independent" in Probe.again({"layers": [1], "roles": ["eoi"]}).methods
