from types import SimpleNamespace

from actstore_extract.recipe import recipe
from actstore_extract.run import extractor
from actstore_extract.run.places import place
from actstore_extract.run.runner import Run
from extracting import SMALL, extract, vectors


def test_a_batch_is_launched_before_the_one_before_it_is_looked_at(tmp_path, monkeypatch):
    begin, happened = extractor.begin, []

    def watched(model, batch, *arguments, **options):
        begun, number = begin(model, batch, *arguments, **options), happened.count("launched")
        happened.append("launched")

        def result():
            happened.append(number)
            return begun.result()

        return SimpleNamespace(result=result)

    run = Run(recipe.load("digits-fusion", [*SMALL, "capture.batch_size=1", "capture.part_samples=24"]))
    run._open(place(tmp_path / "s"))
    monkeypatch.setattr(extractor, "begin", watched)
    run.extract(tmp_path / "s")
    assert len(happened) == 48 > 2 * extractor.BATCHES_ENCODED  # several are sorted by length, one after the other
    for number in range(23):
        assert happened[: happened.index(number)].count("launched") == number + 2
    extract(tmp_path / "whole", "capture.batch_size=1")
    assert vectors(tmp_path / "s") == vectors(tmp_path / "whole")
