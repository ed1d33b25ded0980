"""The stores of the tutorials: small models that ship, extracted once into `_build/work/demo`."""

import subprocess
from pathlib import Path

import actstore

WORK = Path(__file__).parent / "_build" / "work"
RECIPES = {
    "fusion": "digits-fusion",
    "mapped": "digits-mapped",
    "gated": "digits-gated",
    "fusion-knockout": "digits-fusion-knockout",
    "gated-knockout": "digits-gated-knockout",
    "gated-patch": "digits-gated-patch",
}


def make() -> None:
    """Extract what is not there, or go on with what is there in part."""
    WORK.mkdir(parents=True, exist_ok=True)
    for folder in ("gallery", "tutorials"):  # figures and notebooks run beside their source
        seen = WORK.parent.parent / folder / "demo"
        if not seen.is_symlink():
            seen.symlink_to(WORK / "demo")
    for name, recipe in RECIPES.items():
        if (WORK / "demo" / name).exists() and not actstore.open(WORK / "demo" / name).remaining:
            continue
        subprocess.run(["actstore", "extract", recipe, f"demo/{name}"], cwd=WORK, check=True)
