"""Features as Neuronpedia's exports have them: a folder for each layer, a feature a line, gzipped."""

import gzip
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from actstore.commands.outputs import written
from actstore.errors import ActstoreError
from actstore_analyze.report.features.dashboard import Dashboard, Top

__all__ = ["export"]

PARTS = ("features", "activations", "explanations")


def export(found: Sequence[Dashboard], folder: Path, model: str, name: str) -> list[Path]:
    """Write MODEL/LAYER-NAME/{features,activations,explanations}/batch-0.jsonl.gz below a folder; returns the files.

    A feature has index, frac_nonzero (of all vectors), maxActApprox, freq_hist_data_bar_heights and _values, and
    pos_str, pos_values, neg_str, neg_values, as far as the store keeps a lens. Of an activation `tokens` are the cells
    of the picture, "row,column", and `values` theirs; where no grid is known the sample's name. Numbers of layers are
    those of the store, residual points. Raises ActstoreError for features of several groups of rows, that would be one.
    """
    groups = {(one.row["role"], one.row["prompt_order"], one.row["condition"]) for one in found}
    if len(groups) > 1:
        raise ActstoreError(
            f"features of {len(groups)} groups of rows are told apart by no export: choose one (--roles)"
        )
    files = []
    for layer in sorted({one.row["layer"] for one in found}):
        own = [one for one in found if one.row["layer"] == layer]
        source = f"{layer}-{name}"
        lines = {part: [line for one in own for line in _LINES[part](one)] for part in PARTS}
        for part, rows in lines.items():
            if rows:
                path = folder / model / source / part / "batch-0.jsonl.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                text = "".join(
                    json.dumps({"modelId": model, "layer": source, **row}, ensure_ascii=False, allow_nan=False) + "\n"
                    for row in rows
                )
                with written(path) as draft:
                    draft.write_bytes(gzip.compress(text.encode(), mtime=0))
                files.append(path)
    return files


def _features(one: Dashboard) -> Iterator[dict[str, Any]]:
    edges = one.histogram.edges
    tokens = {
        "pos_str": [token for token, _ in one.likelier],
        "pos_values": [round(value, 6) for _, value in one.likelier],
        "neg_str": [token for token, _ in one.less],
        "neg_values": [round(value, 6) for _, value in one.less],
    }
    yield {
        "index": str(one.row["feature"]),
        "frac_nonzero": one.row["active"],
        "maxActApprox": one.row["largest"],
        "freq_hist_data_bar_heights": one.histogram.counts,
        "freq_hist_data_bar_values": [round((low + high) / 2, 6) for low, high in pairwise(edges)],
        **(tokens if one.likelier else {}),
    }


def _activations(one: Dashboard) -> Iterator[dict[str, Any]]:
    for number, top in enumerate(one.top):
        tokens, values = _cells(top)
        yield {
            "index": str(one.row["feature"]),
            "dataIndex": str(number),
            "dataSource": top.sample_id,
            "tokens": tokens,
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": values.index(max(values)),
            "minValue": min(values),
        }


def _cells(top: Top) -> tuple[list[str], list[float]]:
    if top.cells is None:
        return [top.sample_id], [top.activation]
    named = [(f"{i},{j}", value) for i, line in enumerate(top.cells) for j, value in enumerate(line)]
    return [name for name, _ in named], [value for _, value in named]


def _explanations(one: Dashboard) -> Iterator[dict[str, Any]]:
    if one.description is not None:
        yield {"index": str(one.row["feature"]), "description": one.description}


_LINES = dict(zip(PARTS, (_features, _activations, _explanations), strict=True))
