"""Real notebooks, in real kernels: bars show, nothing is said twice, and Ctrl-C leaves a kernel that can be used."""

import asyncio
import time
from pathlib import Path

import pytest

import making

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the client's own

REPOSITORY = Path(__file__).parent.parent
LONGEST = 900  # seconds of a cell, which take three times as long where ten others compute on the same two cores
PATHS = [str(REPOSITORY / folder) for folder in ("", "extract", "analyze")]


class Notebook(nbclient.NotebookClient):
    """Runs cells one after the other in a kernel, and keeps every state of an output that changes in its place."""

    def __init__(self, *cells, interrupted=None):
        self.changes, self.interrupted = [], interrupted
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        super().__init__(nb, timeout=LONGEST, kernel_name="python3", allow_errors=True)

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "update_display_data":
            self.changes.append(msg["content"]["data"]["text/plain"])
        if msg["msg_type"] == "stream" and self.interrupted and self.interrupted in msg["content"]["text"]:
            self.interrupted = None
            asyncio.get_running_loop().call_later(0.5, lambda: asyncio.ensure_future(self.km.interrupt_kernel()))
        return super().process_message(msg, cell, cell_index)

    def run(self):
        """What each cell gave: its kinds of output with their text."""
        self.execute()
        return [[shown(output) for output in cell.outputs] for cell in self.nb.cells]


def shown(output):
    if output.output_type == "stream":
        return output.name, output.text
    if output.output_type == "error":
        return "error", output.ename
    return output.output_type, dict(output.data)


def test_a_bar_a_card_and_ctrl_c(tmp_path):
    path = making.store(tmp_path / "s").path
    started = time.monotonic()
    notebook = Notebook(
        f"import sys; sys.path[:0] = {PATHS!r}\nimport actstore, time\nfrom actstore.progress import bar",
        f"store = actstore.open({str(path)!r})\nstore",
        "with bar(3, 'steps') as one:\n    for _ in range(3):\n        time.sleep(0.25); one.advance(note='<b>')",
        "print('began', flush=True)\n"
        "store.sql('select count(*) from rows a, range(10000000) b, range(10000000) c where b.range + c.range < a.k')",
        "store.sql('select count(*) as n from rows')['n'].item(), store.residual([0], 1).shape",
        interrupted="began",
    )
    none, card, bar, stopped, after = notebook.run()
    assert none == []
    (card,) = card
    assert card[0] == "execute_result"
    assert "<table><tr><th>store</th>" in card[1]["text/html"]
    assert bar == [("display_data", {"text/plain": "", "text/html": ""})]  # gone again
    assert notebook.changes[0] == "0 of 3 steps"
    assert notebook.changes[-2].startswith("3 of 3 steps, <b>")
    assert notebook.changes[-1] == ""
    assert stopped == [("stdout", "began\n"), ("error", "KeyboardInterrupt")]
    assert after == [("execute_result", {"text/plain": "(27, (1, 8))"})]
    assert time.monotonic() - started < LONGEST


@pytest.mark.slow
def test_an_extraction_is_stopped_and_goes_on_and_is_measured(tmp_path):
    path = tmp_path / "s"
    extract = (
        f"store = actstore_extract.extract('digits-fusion', {str(path)!r}, batch_size=4, "
        "changes=['samples.limit=400', 'capture.part_samples=8'])"
    )
    notebook = Notebook(
        f"import sys; sys.path[:0] = {PATHS!r}\nimport actstore_analyze, actstore_extract",
        extract,
        extract + "\nlen(store.remaining)",
        "found = store.measure.cluster(roles=['eoi'], layers=[6])\nfound",
        "found.figure",
        "store.results()",
        "store.measure.overlap(roles=['nothing'])",
        "store.measure.overlap(roles=['eoi'], layers=[6], k=3).table.height",
        interrupted="400 of 400 samples left",
    )
    _, stopped, gone_on, measured, figure, results, wrong, after = notebook.run()
    assert [text for kind, text in stopped if kind == "error"] == ["KeyboardInterrupt"]
    assert "IProgress" not in "".join(text for kind, text in stopped if kind == "stderr")  # tqdm asks for ipywidgets
    lines = "".join(text for kind, text in gone_on if kind == "stderr").splitlines()
    (left,) = [line for line in lines if line.endswith("samples left")]
    assert 0 < int(left.split(" ")[0]) < 400
    assert len(lines) == len({*lines})
    trace = [line for output in notebook.nb.cells[1].outputs for line in output.get("traceback", [])]
    assert gone_on[-1] == ("execute_result", {"text/plain": "0"}), "\n".join(trace)
    assert any(text.startswith("400 of 400 samples") or "of" in text for text in notebook.changes)
    assert [kind for kind, _ in measured].count("execute_result") == 1
    assert "<svg" in measured[-1][1]["text/html"]
    ((kind, bundle),) = figure
    assert kind == "execute_result"
    assert {"image/svg+xml", "image/png"} < bundle.keys()
    assert "cluster" in results[-1][1]["text/html"]
    assert wrong[-1] == ("error", "ActstoreError")
    assert after[-1] == ("execute_result", {"text/plain": "1"})
