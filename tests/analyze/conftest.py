"""What tests of measures share: the store of two_sided, and charts that are held against Vega-Lite's schema."""

import pytest

from actstore_analyze import devices
from actstore_analyze.charts import charts
from actstore_analyze.study import executor
from forked import processes
from two_sided import make

VALIDATED = 3
_drawn = {}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One for each file of tests: commands save in it what they measured."""
    return make(tmp_path_factory.mktemp("two") / "store")


@pytest.fixture(autouse=True)
def forks(monkeypatch):
    """Processes of --jobs have imported already what they need; in test_executor.py they begin as a user's do."""
    monkeypatch.setattr(executor, "PROCESSES", processes)


@pytest.fixture
def gpu(monkeypatch):
    """PyTorch's CPU by the name of a GPU: `cuda`, and in results `cuda (Test 1)`."""
    monkeypatch.setattr(devices, "checked", lambda name: name)
    monkeypatch.setattr(devices, "opened", lambda name: devices.HOST if name == "cpu" else devices.Torch("cpu"))
    monkeypatch.setattr(devices, "named", lambda name: name if name == "cpu" else "cuda (Test 1)")


@pytest.fixture(autouse=True)
def schema(request, monkeypatch):
    """The first charts that a file of tests draws are held against the schema: all would take a tenth of the time."""
    drawn, made = _drawn.setdefault(request.path, []), charts.vega_lite

    def vega_lite(chart):
        drawn.append(chart)
        return made(chart, validate=len(drawn) <= VALIDATED)

    monkeypatch.setattr(charts, "vega_lite", vega_lite)
