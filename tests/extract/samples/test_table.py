"""Tables of samples."""

import polars as pl
import pytest

from actstore_extract.samples import SamplesError
from sampling import source


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_table(folder, suffix):
    frame = pl.DataFrame({"image": ["cat/0.png", None], "prompt": ["<image>what?", "a dog"], "score": [1.5, 2.5]})
    path = folder / f"table.{suffix}"
    writers = {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}
    writers[suffix](path)
    found = source("table", path=path).samples()
    assert found.table["sample_id"].to_list() == ["row-000000", "row-000001"]
    assert found.table["score"].to_list() == [1.5, 2.5]
    assert found.image("cat/0.png").size == (7, 9)


def test_a_table_that_is_not_there_or_none(tmp_path):
    with pytest.raises(SamplesError, match="does not exist"):
        source("table", path=tmp_path / "x.csv").samples()
    with pytest.raises(SamplesError, match=r"is one of .parquet, .csv"):
        source("table", path=tmp_path / "x.xlsx").samples()
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(SamplesError, match=r"bad.parquet: "):
        source("table", path=tmp_path / "bad.parquet").samples()
