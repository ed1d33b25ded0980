"""Settings: what decides a model's numbers beside its weights, value by value, as run cards and checkpoints keep it."""

import json
import math
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from actstore_extract.families import sources
from actstore_extract.families.parts import read_parts
from actstore_extract.roles import RULES
from actstore_extract.run.fingerprint import LANGUAGE, WEIGHTS, folder_of, hashed, matching

__all__ = ["changed", "changed_decoder", "settings"]

_CONFIGS = ("config.json", "special_tokens_map.json", "tokenizer_config.json")
_PICTURES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_GENERATION, _ENDS = "generation_config.json", "eos_token_id"
_WORDS = (
    "additional_chat_templates/*",
    "added_tokens.json",
    "chat_template*",
    "dict.txt",
    "merges*",
    "normalizer.json",
    "tekken.json",
    "tokenizer.json",
    "vocab*",
    "*.codes",
    "*.model",
    "*.spm",
    "*.tiktoken",
)
_CODE = "*.py"
# Who wrote a file, where it lay, and what the recipe says instead: no number depends on these, however deep they are.
_REMARKS = {
    "_commit_hash",
    "_name_or_path",
    "auto_map",
    "base_model_name_or_path",
    "dtype",
    "inference_mode",
    "name_or_path",
    "peft_version",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_TABLES = ("added_tokens_decoder", "id2label", "label2id", "vocabulary_map")  # as long as a vocabulary: a hash is kept
_KEPT = 100  # characters of a value that is kept as it is; of a longer one a hash is
_EXACT = 2**53  # up to here every JSON reader has the same integers
_ADAPTER, _LORA = "adapter", "lora"  # entries of a parts file that name what was trained


def settings(
    path: str,
    revision: str | None = None,
    *,
    generation: str | Mapping[str, object] | None = None,
    code: bool = False,
) -> dict[str, object]:
    """The values of a model's configuration and processor, and hashes of the files of its tokenizer, in its folders
    or in the hub's cache: by file and key, such as "language/config.json: rope_parameters.rope_theta".

    What only remarks on a file is left out, and null, which is the same as nothing; `generation`, where texts are
    generated: "checkpoint", where their configuration counts whole, else its end tokens do; `code`: so does the code
    that they bring along.
    """
    found = {
        f"{name}/{key}" if name else key: value
        for name, source in sources(path, revision).items()
        for key, value in _of_folder(folder_of(*source), generation, code)
    }
    return {**found, **_of_parts(path)}


def changed(then: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """In what the model at hand is another than that of a run card, by name: then and now.

    Both have weights_sha256, processor_sha256 and settings; a card from before these were kept has the first two. One
    from before the rules of roles were counted has the first of them.
    """
    rules = _differing({RULES: then.get(RULES, 1)}, {RULES: now.get(RULES, 1)})
    kept = then.get("settings")
    if not isinstance(kept, Mapping):
        names = ("weights_sha256", "processor_sha256")
        return rules | _differing({name: then.get(name) for name in names}, {name: now[name] for name in names})
    weights = ({"weights_sha256": one.get("weights_sha256")} for one in (then, now))
    return rules | _differing(*weights) | _differing(kept, now["settings"])  # type: ignore[arg-type]


def changed_decoder(
    then: Mapping[str, object] | None, path: str, revision: str | None = None
) -> dict[str, tuple[object, object]]:
    """In what the language model and its tokenizer at hand are others than the settings of a run card say: nothing,
    where a card from before these were kept says nothing."""
    if then is None:
        return {}
    parts = read_parts(path)
    if parts is not None and LANGUAGE in parts.entries:
        path, revision = parts.model(LANGUAGE)
    own = {key: value for key, value in then.items() if key.startswith(f"{LANGUAGE}/")}
    kept = {key.removeprefix(f"{LANGUAGE}/"): value for key, value in (own or then).items()}
    no_part = (*_PICTURES, _GENERATION)
    return _differing(
        *(
            {key: value for key, value in one.items() if not key.startswith(no_part)}
            for one in (kept, settings(path, revision))
        )
    )


def _differing(then: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    pairs = {key: (then.get(key), now.get(key)) for key in {**then, **now}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _of_folder(folder: Path, generation: str | Mapping[str, object] | None, code: bool) -> Iterator[tuple[str, object]]:
    for name in (*_CONFIGS, *_PICTURES, *([_GENERATION] if generation is not None else [])):
        if (folder / name).is_file():
            whole = name != _GENERATION or generation == "checkpoint"
            yield from (one for one in _of_json(folder / name) if whole or one[0] == f"{_GENERATION}: {_ENDS}")
    for path in matching([folder], (*_WORDS, *([_CODE] if code else []))):
        yield path.relative_to(folder).as_posix(), _hash(path)


def _of_parts(path: str) -> dict[str, object]:
    """What a parts file says but for where its models are; of an adapter or LoRA what is in it."""
    parts = read_parts(path)
    if parts is None:
        return {}
    models = sources(path)
    found: dict[str, object] = {"family": parts.family}
    for name, value in parts.entries.items():
        if name == _LORA:
            found |= {f"{name}/{key}": one for key, one in _of_json(parts.path(name) / "adapter_config.json")}
            found[name] = hashed(matching([parts.path(name)], WEIGHTS))
        elif name == _ADAPTER:
            found[name] = _hash(parts.path(name))
        elif name not in models:
            found[name] = value
    return {f"parts.toml: {name}": value for name, value in found.items()}


def _of_json(path: Path) -> Iterator[tuple[str, object]]:
    """The values of a file of JSON; of one that is none its hash."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # whoever loads the model says so
        yield path.name, _hash(path)
        return
    for name, value in _flat(values):
        yield f"{path.name}: {name}", value


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Values by their keys with dots, as short as a run card can have them.

    >>> dict(_flat({"rope": {"theta": 10000.0, "type": None}, "size": [8, 8], "transformers_version": "5.0"}))
    {'rope.theta': 10000.0, 'size': '[8, 8]'}
    """
    if isinstance(value, dict) and not name.endswith(_TABLES):
        for key, one in value.items():
            if key not in _REMARKS:
                yield from _flat(one, f"{name}.{key}" if name else key)
    elif isinstance(value, bool | str | int | float) and _is_plain(value):
        yield name, value
    elif value is not None:
        text = json.dumps(value, sort_keys=True)
        yield name, text if len(text) <= _KEPT else f"sha256 {sha256(text.encode()).hexdigest()}"


def _hash(path: Path) -> str:
    return f"sha256 {hashed([path])}"


def _is_plain(value: bool | str | int | float) -> bool:
    """Whether any JSON reader gives it back as it is."""
    if isinstance(value, str):
        return len(value) <= _KEPT
    return math.isfinite(value) and abs(value) <= _EXACT
