"""README: the card of a data set of the Hub that holds a store, which is replaced while nobody else has changed it."""

import json
import re
from textwrap import indent

from actstore.errors import ActstoreError, visible
from actstore.storage import local
from actstore.storage.hub import parsed
from actstore.store import Store

__all__ = ["NAME", "check_license", "is_ours", "license_of", "text"]

NAME = "README.md"
TAGS = ("actstore", "activations", "interpretability")
CONFIGS = """\
- config_name: samples
  data_files: parts/*/samples.parquet
  default: true
- config_name: rows
  data_files: parts/*/rows.parquet
- config_name: plan
  data_files: plan.parquet
- config_name: vocab
  data_files: vocab.parquet
"""  # the tables that the viewer shows
SIGNED = re.compile(
    r"<!-- written by actstore push, crc32c ([0-9a-f]{8}); what somebody changes is left as it is -->\n"
)
LICENSE = re.compile(r"^license: ([A-Za-z0-9.-]+)$", re.MULTILINE)
WORD = re.compile(r"[A-Za-z0-9.-]+")


def check_license(name: str) -> str:
    """The name of a license, as the Hub has them: mit, cc-by-4.0; raises ActstoreError for what is none."""
    if not WORD.fullmatch(name):
        raise ActstoreError(f"license '{name}': the Hub has names such as mit, apache-2.0, cc-by-4.0, other")
    return name


def license_of(card: str) -> str | None:
    """The license that a card names.

    >>> license_of("---\\nlicense: mit\\n---\\n")
    'mit'
    """
    match = LICENSE.search(card.partition("\n---")[0])
    return match[1] if match else None


def is_ours(card: str) -> bool:
    """Whether a card is as `text` wrote it."""
    match = SIGNED.search(card)
    return bool(match and match.end() == len(card) and _checksum(card[: match.start()]) == match[1])


def text(store: Store, url: str, about: str, license_name: str | None) -> str:
    """The card of a store at a URL; about: what it holds, in words."""
    model = visible(str(store.run.get("model", ""))).replace("`", "'")
    name = parsed(url).id.rpartition("/")[2]
    tags = "".join(f"- {tag}\n" for tag in [*TAGS, *_family(store)])
    yaml = f"pretty_name: {json.dumps(name)}\ntags:\n{tags}configs:\n{CONFIGS}"
    if license_name:
        yaml = f"license: {license_name}\n{yaml}"
    said = f"This data set: `{license_name}`." if license_name else "None is named yet for this data set."
    role, layer = next(iter(store.roles), None), store.layers[len(store.layers) // 2]
    vectors = f"""rows = store.sql("from rows where role = '{role}'")
x = store.residual(rows, layer={layer})  # (rows, {store.header.d_model})
"""
    title, of_model = (f"{name}: activations of {model}", f" `{model}`") if model else (f"{name}: activations", "")
    body = f"""---
{yaml}---

# {title}

A store of actstore: activations in Zarr, everything else in Parquet, and checksums of all of it. The viewer shows the
tables; vectors are read where they lie, a role and a layer at a time:

```python
import actstore  # with its extra: hub

store = actstore.open("{url}")
samples = store.sql("from samples limit 10")
{vectors if role else ""}```

What it holds (`actstore info {url}`):

{indent(about, "    ")}
Fetched whole, and compared with its checksums: `actstore pull {url} {name}`

## License

{said} What is computed from a model and from samples may be bound by their licenses,
too: those of the model{of_model} and of the samples, whose prompts, labels and file names are in the tables.

"""
    return f"{body}{_signature(body)}"


def _family(store: Store) -> list[str]:
    family = store.run.get("family")
    return [family] if isinstance(family, str) and WORD.fullmatch(family) else []


def _signature(body: str) -> str:
    return f"<!-- written by actstore push, crc32c {_checksum(body)}; what somebody changes is left as it is -->\n"


def _checksum(body: str) -> str:
    return local.crc32c_of(body.encode())
