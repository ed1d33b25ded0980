"""The command that imports what other tools keep."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actstore.commands.options import folder_argument
from actstore.errors import ActstoreError, visible

if TYPE_CHECKING:
    from actstore_extract.run.importing.source import Source

KINDS = ("easyroutine", "transformer-lens", "pt", "npy", "safetensors", "sae-lens", "saev", "vlm-lens")
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


class Layers(click.ParamType[tuple[int, ...]]):
    """Residual points: 0..12, or 0,4,8."""

    name = "layers"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The points, ascending."""
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for piece in str(value).split(","):
            ends = re.fullmatch(r"\s*(\d{1,6})(?:\.\.(\d{1,6}))?\s*", piece)
            if ends is None:
                self.fail(f"'{value}' is not such as 0..12, or 0,4,8", param, ctx)
            found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        if not found or found != sorted(set(found)):
            self.fail(f"'{value}': residual points ascend, each once", param, ctx)
        return tuple(found)


def _words(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",")) if value else ()


@click.command(name="import")
@click.argument("source", type=click.Path(path_type=Path))
@folder_argument
@click.option("--as", "kind", type=click.Choice(KINDS), required=True, help="What made SOURCE.")
@click.option("--samples", type=FILE, help="A table of the samples, in their order: sample_id, label, length, ...")
@click.option("--rows", type=FILE, help="A table of sample_id, role, position: what is kept of whole samples.")
@click.option("--roles", callback=_words, metavar="ROLE,...", help="What the axis `position` has, one role or all.")
@click.option("--padding", type=click.Choice(["left", "right"]), help="Where samples shorter than others are padded.")
@click.option("--axes", callback=_words, metavar="AXIS,...", help="Of arrays: sample, layer, position, feature.")
@click.option("--names", multiple=True, metavar="PATTERN", help="What names mean: 'layer_{layer}', 'h.{block}', ...")
@click.option("--layers", type=Layers(), default=(), help="Residual points: 0..12, or 0,4,8.")
@click.option("--model", help="The model they are of; of a database of several, the one that is read.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), help="Round to it; else it stays.")
def import_(
    source: Path,
    store: Path,
    kind: str,
    samples: Path | None,
    rows: Path | None,
    roles: tuple[str, ...],
    padding: str | None,
    axes: tuple[str, ...],
    names: tuple[str, ...],
    layers: tuple[int, ...],
    model: str | None,
    dtype: str | None,
) -> None:
    """Write vectors of the residual stream that another tool kept as a store; the same call again goes on.

    Layers are residual points: 0 the embeddings, l the output of block l - 1. So TransformerLens' hook_resid_pre of
    block l is layer l and its hook_resid_post layer l + 1, as are easyroutine's resid_in_l and resid_out_l. What else a
    file holds is left out, and said. No file's code is run: torch's files are read as weights_only.

    Of arrays (pt, npy, safetensors; a file or a folder) --axes says what they are, and --names which array is what, by
    its key or its file, FILE:KEY for both: {layer} is a residual point, {block} the block whose output it is, {role},
    {sample} and {batch} are what they say, * is anything.

    \b
    Example:
      actstore import runs/easyroutine/2026-01-05 mine --as easyroutine --samples labels.csv
      actstore import cache.pt mine --as transformer-lens --samples labels.csv --padding right
      actstore import acts mine --as pt --names '{sample}:layer_{layer}' --axes position,feature --rows eoi.csv
      actstore import x.npy mine --as npy --axes sample,layer,feature --layers 0..12 --roles last
    """
    from actstore.sql.files import read_table
    from actstore.storage.local import crc32c
    from actstore_extract.run.importing.into import Tables, into

    asked = {"--names": names, "--axes": axes, "--layers": layers, "--roles": roles}
    found = _source(source, kind, model, asked)
    for line in found.said:
        click.echo(visible(line), err=True)
    given = {"samples": samples, "rows": rows}
    tables = Tables(**{name: read_table(file) for name, file in given.items() if file}, padding=padding)
    files = {name: None if file is None else crc32c(file) for name, file in given.items()}
    said = {**{option[2:]: value for option, value in asked.items()}, **files, "padding": padding, "dtype": dtype}
    card = {"as": kind, "source": source.resolve().name, **{name: value for name, value in said.items() if value}}
    left, n = into(store, found if model is None else found.of_model(model), tables, card, dtype)
    click.echo(visible(f"{store}: {left} of {n} samples were left; all are in it"), err=True)


def _source(path: Path, kind: str, model: str | None, asked: Mapping[str, tuple[Any, ...]]) -> "Source":
    """The source of a kind; click.UsageError for what it says itself."""
    from actstore_extract.run.importing import arrays, easyroutine, saelens, saev, vlmlens
    from actstore_extract.run.importing.asked import Asked

    if path.is_fifo():
        raise ActstoreError(f"{path} is a pipe, and arrays are read from several places: write it to a file first")
    if kind in ("pt", "npy", "safetensors", "transformer-lens"):
        return arrays.source(path, kind, Asked(*asked.values()))
    if odd := [option for option, value in asked.items() if value and (kind, option) != ("vlm-lens", "--names")]:
        raise click.UsageError(f"{odd[0]} is for arrays; {kind} says it itself.")
    if kind == "vlm-lens":
        return vlmlens.source(path, asked["--names"], model)
    return {"easyroutine": easyroutine.source, "sae-lens": saelens.source, "saev": saev.source}[kind](path)
