"""Tables of samples through the real command line."""

import json
from io import BytesIO

import polars as pl
from PIL import Image

import actstore
from actstore.commands import main


def picture(value):
    """A picture of one grey, as the bytes of a PNG."""
    made = BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(made, "PNG")
    return made.getvalue()


def extract(table, *changes, source="table", status=0):
    """The samples of a store made of the table, where that ends with the status 0."""
    store = table.parent / f"store-{table.name}"
    keys = f'source = "{source}", path = "{table}"'
    sets = [f"samples={{ {keys} }}", "capture.roles=['last']", "capture.layers=[0]", *changes]
    words = [word for change in sets for word in ("--set", change)]
    assert main.run(["extract", "digits-fusion", str(store), "--device", "cpu", *words]) == status
    return actstore.open(store).sql("from samples order by sample_id") if status == 0 else pl.DataFrame()


def lines(path, rows, *, before=b""):
    path.write_bytes(before + "".join(f"{json.dumps(row)}\n" for row in rows).encode())
    return path
