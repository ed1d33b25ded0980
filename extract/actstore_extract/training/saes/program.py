"""From a store to autoencoders of some of its layers, one after another; what is finished is not made again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import torch

from actstore.errors import ActstoreError
from actstore.progress import bar
from actstore.store import Store
from actstore_extract.again.rerun import Rerun
from actstore_extract.families.device import find_device
from actstore_extract.run.encoder import prompt_of
from actstore_extract.samples.source import drawn
from actstore_extract.training.saes.autoencoder import Settings, fit, library, loaded, save
from actstore_extract.training.saes.recovered import Read, losses, recovered
from actstore_extract.training.saes.scores import dead, rebuilt, standard

__all__ = ["SCORES", "train_saes"]

Say = Callable[[str], None]
RECORD = "training.json"  # written before the folder gets its name
MOST_READ = 64  # held-out samples whose cross-entropy is taken
SCORES = {
    "layer": pl.Int32,
    **dict.fromkeys(("features", "k", "steps", "vectors", "held_out"), pl.Int64),
    **dict.fromkeys(("l0", "dead", "fvu", "fvu_without_massive"), pl.Float64),
    "massive_dims": pl.String,
    **dict.fromkeys(("recovered", "recovered_from_mean"), pl.Float64),
    **dict.fromkeys(("loss", "loss_rebuilt", "loss_zeroed", "loss_mean"), pl.Float64),
    "tokens": pl.Int64,
}


@dataclass(frozen=True)
class _Chosen:
    """Rows to learn from and rows that are held out, whole samples of them: row_id, sample_id, position."""

    learned: pl.DataFrame
    held_out: pl.DataFrame

    @classmethod
    def of(cls, store: Store, sql: str, share: float, how: Settings) -> "_Chosen":
        """The rows of a query, each once; of those to learn from no more than all steps take."""
        query = sql.strip().rstrip(";")
        if "row_id" not in (own := store.sql(f"from (\n{query}\n) limit 0").columns):
            raise ActstoreError(
                f"the query gives no row_id, only {', '.join(own)}; for example: from rows where modality = 'text'"
            )
        rows = store.sql(
            "select r.row_id, r.sample_id, r.condition, r.position from "
            f"(select distinct row_id from (\n{query}\n)) q join rows r on r.row_id = q.row_id order by all"
        )
        if others := sorted(set(rows["condition"]) - {"none"}):
            raise ActstoreError(
                f"rows of condition {others[0]} are not of the model as it is: where condition = 'none'"
            )
        if rows["position"].has_nulls():
            raise ActstoreError(
                "the query gives rows of means, which are no vector of one token: leave their roles out"
            )
        rows = rows.unique(["sample_id", "position"], keep="first", maintain_order=True)
        names = drawn(rows["sample_id"].unique(), seed=how.seed)
        n = round(share * len(names))
        if not 0 < n < len(names):
            raise ActstoreError(f"{share:g} of {len(names)} samples leave none to learn from, or none to be held out")
        is_held = pl.col("sample_id").is_in(names[:n])
        learned = rows.filter(~is_held)
        most = min(learned.height, how.steps * how.batch_size)
        return cls(learned.sample(most, seed=how.seed).sort("row_id"), rows.filter(is_held))


def train_saes(
    store: Store,
    out: Path,
    how: Settings,
    *,
    sql: str,
    layers: Sequence[int] | None = None,
    held_out: float = 0.05,
    loss: bool = True,
    device: str = "auto",
    say: Say = lambda _: None,
) -> pl.DataFrame:
    """Train an autoencoder for each layer into out/layer_L; the scores of all, SCORES, on held-out samples.

    Each dimension is brought to mean 0 and variance 1 first, so that the massive ones do not outweigh all others, and
    both are put into the weights after training. A layer whose folder is there is not trained again; ActstoreError
    where that was made otherwise. With `loss` the model is loaded, and reads some held-out samples.
    """
    library()  # before anything takes time
    chosen = _Chosen.of(store, sql, held_out, how)
    wanted = tuple(sorted({store.header.layer_of(layer) for layer in (store.layers if layers is None else layers)}))
    asked = {**asdict(how), "held_out": held_out, "loss": loss, "rows": sql, "state": store.state}
    todo = [layer for layer in wanted if not _is_made(out / f"layer_{layer}", asked)]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ActstoreError(f"{out} cannot be a folder: {error.strerror}; choose another") from error
    model = _Reader(store, chosen, tuple(todo), device, say) if loss and todo else None
    for layer in todo:
        with TemporaryDirectory(prefix=f".layer_{layer}-", dir=out) as draft:
            made = Path(draft) / "sae"
            where = model.model.device if model else find_device(device)
            scores = _trained(store, chosen, layer, how, made, where)
            if model is not None:
                scores |= model.scores(layer, made)
            (made / RECORD).write_text(json.dumps({"asked": asked, "scores": scores}, indent=2), encoding="utf-8")
            made.rename(out / f"layer_{layer}")
            say(f"layer {layer}: {_said(scores)}")
    found = [json.loads((out / f"layer_{layer}" / RECORD).read_text(encoding="utf-8"))["scores"] for layer in wanted]
    return pl.DataFrame([{name: one.get(name) for name in SCORES} for one in found], schema=SCORES)


def _is_made(folder: Path, asked: dict[str, object]) -> bool:
    """Whether an autoencoder is there that was made so."""
    if not folder.exists():
        return False
    try:
        before = json.loads((folder / RECORD).read_text(encoding="utf-8"))["asked"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ActstoreError(f"{folder} is there and has no {RECORD}: choose another folder, or remove it") from None
    other = [name for name in asked if before.get(name) != asked[name]]
    if other:
        was = ", ".join(f"{name} = {before.get(name)}" for name in other)
        raise ActstoreError(f"{folder} was made otherwise, with {was}: choose another folder, or remove it")
    return True


def _vectors(store: Store, rows: pl.DataFrame, layer: int, device: torch.device) -> torch.Tensor:
    x = torch.from_numpy(store.residual(rows, layer)).to(device)
    if not bool(torch.isfinite(x).all()):
        raise ActstoreError(f"layer {layer}: some vectors are NaN or infinite; leave their rows out")
    return x


def _trained(
    store: Store, chosen: _Chosen, layer: int, how: Settings, folder: Path, device: torch.device
) -> dict[str, object]:
    x = _vectors(store, chosen.learned, layer, device)
    mean, spread = standard(x)
    torch.manual_seed(how.seed)
    hook = f"blocks.{layer - 1}.hook_resid_post" if layer else "blocks.0.hook_resid_pre"
    name = str(store.run["model"]) if "model" in store.run else None
    with bar(how.steps, "steps") as progress:
        sae = fit(
            (x - mean) / spread,
            how,
            torch.Generator().manual_seed(how.seed),
            hook=hook,
            model=name,
            advance=lambda loss: progress.advance(note=f"layer {layer}, loss {loss:.3g}"),
        )
    sae.fold_activation_whitening(mean, torch.diag(1 / spread), torch.diag(spread))
    save(sae, folder)
    as_kept: Any = loaded(folder, device)
    held_out = _vectors(store, chosen.held_out, layer, device)
    return {
        "layer": layer,
        **{key: getattr(how, key) for key in ("features", "k", "steps")},
        "vectors": len(x),
        "held_out": len(held_out),
        "dead": dead(as_kept, x),
        **rebuilt(as_kept, held_out),
    }


class _Reader:
    """The model that made a store, reading held-out samples with vectors rebuilt."""

    def __init__(self, store: Store, chosen: _Chosen, layers: tuple[int, ...], device: str, say: Say) -> None:
        self.store, self.chosen, self.layers = store, chosen, layers
        self.run = Rerun(store.path, device=device, say=say).run
        self.model = self.run.model

    @cached_property
    def samples(self) -> list[Read]:
        """Held-out samples, and what the store has of them."""
        rows = self.chosen.held_out.partition_by("sample_id", as_dict=True, maintain_order=True)
        names = [str(name) for (name,) in rows][:MOST_READ]
        planned = self.run.asked.filter(pl.col("sample_id").is_in(names)).rows_by_key(
            "sample_id", named=True, unique=True, include_key=True
        )
        found = []
        for name in names:
            own = rows[name,].sort("position")
            asks = prompt_of(self.model, self.run.recipe.prompt, planned[name], self.run.samples.image)
            stored = self.store.residual(own, layers=self.layers)
            by_layer = {layer: torch.from_numpy(stored[:, i]) for i, layer in enumerate(self.layers)}
            found.append(Read(self.model.encode(asks), own["position"].to_numpy().astype(np.int64), by_layer))
        return found

    @cached_property
    def plain(self) -> list[float]:
        """The cross-entropy of each token as the model is."""
        return losses(self.model, self.samples)

    def scores(self, layer: int, folder: Path) -> dict[str, object]:
        """What is left of the model's cross-entropy: `recovered` of what is lost with zeros, `recovered_from_mean` of
        what is lost with the mean vector."""
        if not self.plain:
            raise ActstoreError("no held-out vector has a token behind it, so no loss can be taken: --no-loss")
        plain = float(np.mean(self.plain))
        mean = torch.from_numpy(self.store.residual(self.chosen.learned, layer).mean(0)).to(self.model.device)
        found = recovered(self.model, self.samples, layer, loaded(folder, self.model.device), mean)
        left = {
            name: (found[f"loss_{worst}"] - found["loss_rebuilt"]) / (found[f"loss_{worst}"] - plain)
            for name, worst in (("recovered", "zeroed"), ("recovered_from_mean", "mean"))
        }
        return {"loss": plain, **found, **left, "tokens": len(self.plain)}


def _said(scores: dict[str, Any]) -> str:
    """The scores in a line."""
    parts = [f"FVU {scores['fvu']:.3g} ({scores['fvu_without_massive']:.3g} without the massive dimensions)"]
    parts += [f"L0 {scores['l0']:.1f}", f"{scores['dead']:.1%} of the features dead"]
    if "recovered" in scores:
        parts.append(f"{scores['recovered']:.3f} of the cross-entropy recovered")
    return ", ".join(parts)
