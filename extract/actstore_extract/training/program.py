"""The programs behind the commands: a recipe in, a model out."""

from collections.abc import Callable
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.handing import pip_line
from actstore_extract.training import adapter
from actstore_extract.training.checkpoint import FILE as CHECKPOINT
from actstore_extract.training.data import Data, gather
from actstore_extract.training.log import FIGURE, draw, write_log
from actstore_extract.training.log import FILE as LOG
from actstore_extract.training.loop import Done, Learner, train
from actstore_extract.training.place import place
from actstore_extract.training.recipe import AdapterRecipe, LoraRecipe, TrainingRecipe
from actstore_extract.training.ridge import begin

__all__ = ["train_adapter", "train_lora"]

Say = Callable[[str], None]


def train_adapter(
    recipe: AdapterRecipe, out: Path, *, device: str = "auto", say: Say = lambda _: None, data: Data | None = None
) -> Done:
    """Train the adapter of a recipe into `out`, or go on; `data` instead of what the recipe says.

    A training that is finished and written stays as it is.
    """
    accelerator, here = place(device)
    data = data or _data(recipe, say, images_only=True)
    _ready(out)
    learner = adapter.learner(recipe, here)
    _say_blocked(learner, say)
    if recipe.model.ridge is not None and not (out / CHECKPOINT).is_file():
        begin(learner, data, recipe.model.ridge)
    done = train(recipe, learner, data, out, accelerator, say)
    if done.finished and accelerator.is_main_process:
        if not adapter.written(out):
            adapter.write(recipe, learner, done, out)
        _figure(recipe, done, out, say)
    return done


def train_lora(
    recipe: LoraRecipe, out: Path, *, device: str = "auto", merge: bool = False, say: Say = lambda _: None
) -> Done:
    """Train the LoRA of a recipe into `out`, or go on; one that is finished and written stays as it is."""
    from actstore_extract.training import lora

    accelerator, here = place(device)
    data = _data(recipe, say, images_only=False)
    _ready(out)
    learner, tuned = lora.learner(recipe, here)
    _say_blocked(learner, say)
    done = train(recipe, learner, data, out, accelerator, say)
    if done.finished and accelerator.is_main_process:
        if not lora.written(out, merge=merge):
            lora.write(recipe, learner, tuned, done, out, merge=merge)
        _figure(recipe, done, out, say)
    return done


def _data(recipe: AdapterRecipe | LoraRecipe, say: Say, *, images_only: bool) -> Data:
    if "dtype" not in recipe.model.model_fields_set:
        say(f"the frozen weights run in {recipe.model.dtype}, since the recipe has no dtype in [model]")
    data, said = gather(recipe.data, images_only=images_only, skip_bad=recipe.training.skip_bad)
    for line in said:
        say(line)
    return data


def _say_blocked(learner: Learner, say: Say) -> None:
    for block in [] if learner.model.always is None else learner.model.always.facts():
        say(f"it learns without {block}; extraction has that attention unless its [model] blocked says the same")


def _ready(out: Path) -> None:
    """A folder of ours, or a new one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = [path for path in out.iterdir() if path.name != LOG and path.name[0] != "."]
    except OSError as error:
        raise ActstoreError(f"{out} cannot be a folder: {error.strerror}; choose another") from error
    if others and not (out / CHECKPOINT).is_file():
        raise ActstoreError(f"{out} holds other files and no {CHECKPOINT}: choose an empty folder")


def _figure(recipe: TrainingRecipe, done: Done, out: Path, say: Say) -> None:
    if (out / FIGURE).is_file():
        return
    if draw(out, write_log(out, done.log), recipe.name) is None:
        say(f"no {FIGURE}: figures need altair: {pip_line('analyze')}")
