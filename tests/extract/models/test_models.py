"""Classes of Transformers, built tiny and held against the model itself; the usual suite has a dozen that differ."""

import dataclasses
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from actstore_extract.models import __main__ as program
from actstore_extract.models import trial as trials
from actstore_extract.models.compare import Differences, compare
from actstore_extract.models.kind import Kind, image_text, kind_named, text_only, variants
from actstore_extract.models.reference import Reference, reference
from actstore_extract.models.row import Row, read, write
from actstore_extract.models.small import small
from actstore_extract.models.table import counts, table
from actstore_extract.models.trial import trial
from actstore_extract.models.vision import MISSING

RIGHT = [
    *("gemma3", "llava_next", "idefics3_split", "chameleon"),  # both ways, newlines, tiles, codes
    *("gpt2", "gpt_oss", "jamba", "deepseek_v32", "bloom", "bert"),  # old, sinks, blocks without, sparse, own, no norm
    "mistral4",  # mapped as one that sees, and it does not
]
LONGER = {"jamba", "bloom", "mistral4"}  # whose blocks the self-check and caches are tried with, too


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONGER else ()) for name in RIGHT]
)
def test_is_right(name: str, tmp_path: Path) -> None:
    row = trial(kind_named(name), tmp_path / name)
    assert (row.verdict, row.said, row.notes) == ("right", "", [])


def test_encoder_decoders_are_refused_in_one_sentence(tmp_path: Path) -> None:
    row = trial(kind_named("florence2"), tmp_path / "florence2")
    assert row.verdict == "refused"
    assert "encoder" in row.said
    assert "\n" not in row.said


@pytest.mark.slow
@pytest.mark.parametrize("name", [*image_text(), *text_only(), *variants()])
def test_none_is_silently_wrong(name: str, tmp_path: Path) -> None:
    row = trial(kind_named(name), tmp_path / name)
    if row.said == MISSING:
        pytest.skip(MISSING)
    assert row.verdict in ("right", "refused", "not built"), row


def test_what_rounding_explains_is_no_excuse_for_samples_that_run_alone(tmp_path: Path) -> None:
    """A model whose samples are alone not what they should be is wrong, though in a batch they would pass."""
    kind = kind_named("llama")

    def alone_is_off(folder: Path, *args: object, **kwargs: object) -> Differences:
        return Differences(residual=2e-5 if folder.name == "one" else 0.0)

    def noisy(*args: object) -> Reference:
        truth = reference(*args)
        return Reference(truth.blocks, {name: dataclasses.replace(s, noise=1e-5) for name, s in truth.samples.items()})

    with mock.patch.object(trials, "compare", alone_is_off), mock.patch.object(trials, "reference", noisy):
        row = trial(kind, tmp_path / "llama")
    assert (row.verdict, row.residual, row.batch) == ("wrong", 2e-5, 0.0)
    assert row.notes == ["one by one: residual off by 2e-05"]


def test_a_difference_is_seen(tmp_path: Path) -> None:
    """LLaVA is right, and each kind of error, put into what the model said, would be found in its store."""
    kind = kind_named("llava")
    assert trial(kind, tmp_path / "llava").verdict == "right"
    truth = reference(kind, tmp_path / "llava" / "model")

    def found(**changed: object) -> object:
        samples = {**truth.samples, "s1": dataclasses.replace(truth.samples["s1"], **changed)}
        return compare(tmp_path / "llava" / "three", Reference(truth.blocks, samples), ["last-image"], sees=True)

    s1 = truth.samples["s1"]
    assert found().residual < 1e-5
    residual = [x.copy() for x in s1.residual]
    residual[2][s1.image[3]] *= 1.001
    assert found(residual=residual).residual > 1e-4
    attention = {**s1.attention, 1: s1.attention[1] + np.float32(1e-4)}
    assert found(attention=attention).attention == pytest.approx(1e-4, rel=0.1)
    assert found(image=s1.image[:-1]).roles[0].startswith("s1 image 3..18 (16) not 3..17 (15)")
    assert found(text="another").text == [f"s1: {s1.text!r} not 'another'"]
    assert found(logits=-s1.logits).wrong[0].startswith("s1: next token")


def test_every_class_has_a_kind() -> None:
    names = [*image_text(), *text_only()]
    assert len(set(names)) == len(names)
    assert all(kind_named(name).model_type == name for name in names)
    assert {kind_named(name).model_type for name in variants()} <= set(names)


def test_kinds_are_of_classes_that_there_are() -> None:
    known = {*image_text(), *text_only(), *variants()}
    assert {name for name in _written() if not name.startswith("_")} <= known


def _written() -> list[str]:
    import tomllib

    folder = Path(program.__file__).parent / "kinds"
    return [name for path in folder.glob("*.toml") for name in tomllib.loads(path.read_text(encoding="utf-8"))]


def test_a_small_configuration_is_the_real_one_made_small() -> None:
    config = small("llava", {"vision_config": {"model_type": "siglip_vision_model", "patch_size": 7}}, ())
    assert isinstance(config, CONFIG_MAPPING["llava"])
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (64, 4)
    assert (config.vision_config.model_type, config.vision_config.patch_size) == ("siglip_vision_model", 7)


def test_a_kind_is_like_another_where_it_does_not_differ() -> None:
    plain, tiled = kind_named("idefics3"), kind_named("idefics3_split")
    assert tiled.model_type == "idefics3"
    assert tiled.tokens == plain.tokens
    assert tiled.processor["image_processor"]["do_image_splitting"] is True


def test_what_cannot_be_built_says_why(tmp_path: Path) -> None:
    row = trial(kind_named("evolla"), tmp_path / "evolla")
    assert (row.verdict, row.said) == ("not built", kind_named("evolla").unbuilt)
    row = trial(Kind("llama", config={"num_attention_heads": 5}), tmp_path / "llama")
    assert row.verdict == "not built"
    assert "5" in row.said


def test_the_table_says_how_many_came_out_how(tmp_path: Path) -> None:
    figures = {"residual": 0.0, "batch": 2e-6, "batches": "of one", "attention": 1e-6}
    write(Row("llava", "LlavaForConditionalGeneration", True, "right", **figures), tmp_path)
    write(Row("bart", "BartForCausalLM", False, "refused", "an encoder | decoder"), tmp_path)
    rows = read(tmp_path)
    assert counts(rows).startswith(f"* AutoModelForImageTextToText: {len(image_text())} model types, 1 right, ")
    page = table(rows)
    assert "| llava | LlavaForConditionalGeneration | right | yes | 0 | 1e-06 | yes | 2e-06; of one |  |" in page
    assert "| bart | BartForCausalLM | refused |  |  |  |  |  | an encoder \\| decoder |" in page


def test_the_program_tries_what_it_is_told_in_processes_of_their_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(program.main, ["evolla", "pi0", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"evolla: not built {kind_named('evolla').unbuilt}" in result.output
    assert sorted(read(tmp_path)) == ["evolla", "pi0"]


def test_one_that_does_not_end_is_wrong_and_the_others_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "SECONDS", 0.01)
    result = CliRunner().invoke(program.main, ["llama", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 1
    assert "llama: wrong it took more than 0.01 seconds" in result.output


def test_the_table_in_the_package_is_of_all_classes() -> None:
    page = program.TABLE.read_text(encoding="utf-8")
    lines = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert {*image_text(), *text_only()} <= set(lines)
    assert "not tried" not in page


def test_rows_are_data(tmp_path: Path) -> None:
    row = Row("a", "A", True, "wrong", roles="s0 eoi", without=[0, 2], residual=float("inf"))
    write(row, tmp_path)
    assert read(tmp_path) == {"a": row}
    assert pl.Series([row.residual]).is_infinite().all()
