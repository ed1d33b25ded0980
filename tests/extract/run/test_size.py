"""How many files a run of a million samples leaves by the plan and after compact, as the layout says it."""

from types import SimpleNamespace

import pytest

from actstore.format.layout import RESIDUAL, ArraySpec
from actstore.maintain import compaction
from actstore_extract.run.content import samples_per_part

LAYERS, WIDTH, ROLES = 33, 4096, 4  # of Chameleon-7B
RATIO = 1.45  # of bytes before and after compression, as measured
TABLES = 2  # of a part


def planned(n_samples, tokens, batch_size=16):
    """Samples in a part of a run that keeps so many vectors of each sample, in bfloat16."""
    each = tokens * LAYERS * WIDTH * 2
    return samples_per_part(SimpleNamespace(bytes=each * 8, done=8), batch_size, n_samples)


def files(samples, tokens_per_role):
    """Files of a part."""
    arrays = [ArraySpec.of((LAYERS, samples * n, WIDTH), "bfloat16", RESIDUAL) for n in tokens_per_role]
    return TABLES + sum(len(spec.paths()) for spec in arrays)


@pytest.mark.parametrize(("tokens_per_role", "most"), [((1, 1, 1, 1), 20_000), ((8,), 24_000)])
def test_a_million_samples_are_some_thousands_of_files(tokens_per_role, most):
    """Records of all parts that ever were among them: 98,223 and 104,174 files were the same runs before.

    2.2 TB of eight tokens a sample are 17,000 shards of 128 MB, whatever the parts.
    """
    n, tokens = 1_000_000, sum(tokens_per_role)
    size = planned(n, tokens)
    parts = -(-n // size)
    n_bytes = int(size * tokens * LAYERS * WIDTH * 2 / RATIO)
    one = SimpleNamespace(commit=SimpleNamespace(bytes=n_bytes, arrays={}))
    store = SimpleNamespace(parts=[one] * parts, commits=[one.commit] * parts)
    merged = [len(group) for group in compaction.groups(store, compaction.part_bytes_of(store))]
    assert sum(merged) == parts
    records = parts + len(merged)
    assert records < 10_000  # entries that the Hub takes of a folder
    assert sum(files(size * k, tokens_per_role) for k in merged) + records + 5 < most


@pytest.mark.parametrize("n_samples", [10_000, 100_000, 400_000])
def test_smaller_runs_have_parts_as_before(n_samples):
    assert planned(n_samples, 4) == 2**27 // (4 * LAYERS * WIDTH * 2) // 16 * 16 == 112


def test_a_part_waits_in_memory():
    """Of a run of all tokens it is a batch of the model, however many samples there are."""
    assert planned(10**6, 1034) == 16
    assert planned(10**8, 4) * 4 * LAYERS * WIDTH * 2 <= 2**29
    assert planned(10**8, 0.01) == 2048
