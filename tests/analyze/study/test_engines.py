"""Engines: Dask with worker processes, processes, an Executor of one's own; and what goes wrong with each."""

import threading
import time

import pytest

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError, ActstoreWarning
from actstore_analyze.study import abroad, engines, executor
from actstore_analyze.study import kept as keeping
from actstore_analyze.study.executor import mapped
from clusters import cluster
from two_sided import command, counted, dying, killed_once, make, slow, squared


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return actstore.open(make(tmp_path_factory.mktemp("two") / "store"))


@pytest.fixture(scope="module")
def dask():
    with cluster(2) as found:
        yield found


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(executor, "POLL", 0.2)


def marks(file):
    return sorted(map(int, file.read_text().split()))


@pytest.mark.parametrize(
    "asked",
    [
        ("gap",),
        ("overlap", "--roles", "random-text", "-k", "5"),
        pytest.param(("outliers",), marks=pytest.mark.slow),
        pytest.param(("dimension", "--roles", "random-image"), marks=pytest.mark.slow),
        pytest.param(("cluster", "--min-size", "5"), marks=pytest.mark.slow),
        pytest.param(("cka",), marks=pytest.mark.slow),
        pytest.param(("probe",), marks=pytest.mark.slow),
    ],
)
def test_workers_give_what_one_process_gives(store, dask, capsys, asked):
    """Bit for bit: JSON has every digit. Who did the work is no part of the question."""
    name, *options = asked
    _, alone, _ = command(capsys, name, store.path, *options, "--force")
    status, shared, err = command(capsys, name, store.path, *options, "--force", "--executor", dask.url)
    assert (status, shared) == (0, alone), err
    assert "recalled" in command(capsys, name, store.path, *options)[2]
    assert "executor" not in store.results()[0].parameters
    assert dask.address not in str(store.results()[0].parameters)


def test_python_has_it_too(store, dask):
    alone = store.measure.gap(force=True)
    shared = store.measure.gap(force=True, executor=dask.url)
    assert shared.table.equals(alone.table)
    assert "executor" not in shared.command


def test_workers_that_end_or_join_and_a_scheduler_that_is_lost(store, tmp_path, monkeypatch):
    """What goes wrong with one cluster, one after the other: it is one line, or nothing where others go on."""
    units = [(tmp_path / "marks", number) for number in range(12)]
    with cluster(2) as found:
        fatal = [(tmp_path / "killed", number) for number in range(4)]
        assert mapped(store, killed_once, fatal, executor=found.url) == [0, 1, 4, 9]
        found.work(2)
        with pytest.raises(ActstoreError, match="a unit ended its worker again and again.*0 of 2 units"):
            mapped(store, dying, [1, 2], executor=found.url)
        for worker in found.workers:
            worker.kill()
        with monkeypatch.context() as patch:
            patch.setattr(engines, "ALONE", 1.0)
            with pytest.raises(ActstoreError, match="no worker for 1 seconds; begin some: dask worker 127"):
                mapped(store, squared, [1, 2], executor=found.url)
        threading.Timer(0.5, found.work).start()
        assert mapped(store, squared, [3, 1], executor=found.url) == [(3, 9), (3, 1)]

        def lose():
            while not units[0][0].exists() or len(marks(units[0][0])) < 3:
                time.sleep(0.05)
            found.scheduler.kill()

        losing = threading.Thread(target=lose)
        losing.start()
        with pytest.raises(
            ActstoreError, match="the scheduler was lost; (.*) of 12 units are kept, and the same"
        ) as lost:
            mapped(store, slow, units, executor=found.url)
        losing.join()
    kept = int(str(lost.value).split(" of 12")[0].split()[-1])
    assert kept >= 2
    units[0][0].unlink()
    with pytest.warns(ActstoreWarning, match=f"{kept} of 12 units were done by a call that was interrupted"):
        again = mapped(store, slow, units)
    assert len(marks(units[0][0])) == 12 - kept
    assert [one["number"][0] for one in again] == [*range(12)]
    assert not any((tmp_path / "cache" / "actstore" / "units").iterdir())


def test_no_scheduler_is_one_line(store, monkeypatch, capsys):
    monkeypatch.setattr(engines, "CONNECTING", 0.5)
    assert run(["gap", str(store.path), "--force", "--executor", "dask://127.0.0.1:9"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("actstore: dask://127.0.0.1:9: no scheduler of Dask answers there")
    assert said.count("\n") == 1


def test_a_worker_of_another_version_is_refused(store, dask, monkeypatch):
    own = abroad._versions()
    monkeypatch.setattr(abroad, "_versions", lambda: {**own, "actstore": "0.0.9"})
    with pytest.raises(ActstoreError, match=rf"a worker on .* has actstore {own['actstore']} \(0.0.9 here\)"):
        mapped(store, squared, [1, 2], executor=dask.url)


def test_a_worker_that_does_not_see_the_store_is_named(tmp_path, dask):
    moved = actstore.open(make(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(ActstoreError, match=r"a worker on \S+ does not see the store: .*/here.*at the same path there"):
        mapped(moved, squared, [1, 2], executor=dask.url)


@pytest.mark.slow
def test_kinds_of_cpu_are_said(store, capsys):
    """Neighbours do not depend on them."""
    _, alone, _ = command(capsys, "overlap", store.path, "--roles", "eoi", "--force")
    with cluster(0) as found:
        found.work(OPENBLAS_CORETYPE="Nehalem")
        found.work(OPENBLAS_CORETYPE="Haswell")
        time.sleep(5)
        _, shared, said = command(capsys, "overlap", store.path, "--roles", "eoi", "--force", "--executor", found.url)
    assert shared == alone
    assert "workers have CPUs of several kinds (Haswell; Nehalem): means and sums may differ" in said


def test_processes_and_executors_of_ones_own(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def pool():\n    return ThreadPoolExecutor(2)\n"
        "def nothing():\n    return 3\n"
    )
    for name in ("processes", "mine:pool", "concurrent.futures:ThreadPoolExecutor"):
        assert mapped(store, squared, [3, 1, 2], executor=name) == [(3, 9), (3, 1), (3, 4)]
    for name, said in (
        ("mine:nothing", "returns int, not an Executor"),
        ("mine:other", "has no attribute 'other'"),
        ("json:loads", "missing 1 required positional argument"),
        ("nowhere:pool", "No module named 'nowhere'"),
    ):
        with pytest.raises(ActstoreError, match=f"--executor {name}: .*{said}"):
            mapped(store, squared, [3, 1, 2], executor=name)
    with pytest.raises(ActstoreError, match="--jobs are processes of this machine"):
        mapped(store, squared, [3, 1, 2], jobs=2, executor="mine:pool")


@pytest.mark.parametrize("name", ["dask://host", "dask://host:1/x", "spark", "a.b:", "tcp://h:1"])
def test_a_name_that_is_none_is_told_which_there_are(store, name, capsys):
    assert run(["gap", str(store.path), "--executor", name]) == 1
    assert f"'{name}' is no executor: processes, dask://HOST:PORT or MODULE:FUNCTION" in capsys.readouterr().err


def test_workers_of_an_executor_that_die_are_said(store):
    with pytest.raises(ActstoreError, match="ProcessPoolExecutor: its workers have gone.*0 of 2 units are kept"):
        mapped(store, dying, [1, 2], executor="concurrent.futures:ProcessPoolExecutor")


class StoppedError(Exception):
    """What interrupts a call."""


def stopped(store, unit):
    """Stops at the third unit, as long as a file is there."""
    if unit[1] == 2 and unit[0].with_name("stop").exists():
        raise StoppedError
    return counted(store, unit)


@pytest.fixture
def interrupted(store, tmp_path):
    """Units of a call of which two were done."""
    units = [(tmp_path / "marks", number) for number in range(4)]
    (tmp_path / "stop").touch()
    with pytest.raises(StoppedError):
        mapped(store, stopped, units)
    (tmp_path / "stop").unlink()
    return units


def kept(tmp_path):
    return sorted((tmp_path / "cache" / "actstore" / "units").rglob("*.arrow"))


def test_the_same_call_goes_on(store, interrupted, tmp_path):
    assert len(kept(tmp_path)) == 2
    with pytest.warns(ActstoreWarning, match="2 of 4 units were done by a call that was interrupted"):
        found = mapped(store, stopped, interrupted)
    assert marks(tmp_path / "marks") == [0, 1, 2, 3]
    assert [one["root"][0] for one in found] == [0.0, 1.0, 2**0.5, 3**0.5]
    assert kept(tmp_path) == []


@pytest.mark.parametrize("ends_first", [0, 1])
@pytest.mark.filterwarnings("ignore:. of 4 units:actstore.errors.ActstoreWarning")
def test_the_same_call_twice_at_once_loses_nothing(store, interrupted, tmp_path, monkeypatch, ends_first):
    """Which of them is done first leaves the files to the other, and that one removes them."""
    monkeypatch.setattr(keeping, "SECONDS", -1.0)
    calls = [executor.streamed(store, stopped, interrupted) for _ in range(2)]
    found = [[next(call)] for call in calls]
    for number in (ends_first, 1 - ends_first):
        assert kept(tmp_path)
        found[number] += calls[number]
    assert [[one["root"][0] for one in each] for each in found] == [[0.0, 1.0, 2**0.5, 3**0.5]] * 2
    assert kept(tmp_path) == []


def test_another_call_begins_anew(store, interrupted, tmp_path):
    """Of other units, of another function, of a store that has grown: nothing is taken over."""
    assert len(mapped(store, stopped, interrupted[:3])) == 3
    assert len(mapped(store, counted, interrupted)) == 4
    other = actstore.open(make(tmp_path / "other"))
    assert len(mapped(other, stopped, interrupted)) == 4
    assert len(marks(tmp_path / "marks")) == 2 + 3 + 4 + 4


def test_a_unit_whose_file_is_damaged_is_done_again(store, interrupted, tmp_path):
    path = kept(tmp_path)[0]
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.warns(ActstoreWarning, match="1 of 4 units"):
        mapped(store, stopped, interrupted)
    assert marks(tmp_path / "marks") == [0, 0, 1, 2, 3]


def test_what_is_old_or_of_other_code_is_forgotten(store, interrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "_code", lambda: ("changed",))
    mapped(store, stopped, interrupted)
    assert marks(tmp_path / "marks") == [0, 0, 1, 1, 2, 3]
    monkeypatch.setattr(keeping, "OLDEST", -1.0)
    mapped(store, counted, interrupted)
    assert kept(tmp_path) == []


def test_a_short_call_leaves_no_file(store, tmp_path):
    mapped(store, counted, [(tmp_path / "marks", number) for number in range(3)])
    assert not (tmp_path / "cache").exists()


def test_a_disk_without_room_keeps_nothing_and_says_so(store, tmp_path, monkeypatch):
    (tmp_path / "cache").touch()  # a file, in which no folder can be
    (tmp_path / "stop").touch()
    units = [(tmp_path / "marks", number) for number in range(4)]
    with pytest.raises(StoppedError):
        mapped(store, stopped, units)
    (tmp_path / "stop").unlink()
    assert len(mapped(store, stopped, units)) == 4
