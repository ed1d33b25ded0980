"""Which classes of Transformers run, and how right: each built tiny, run, and held against a reference of its own.

    python -m actstore_extract.models

builds a model of every class that AutoModelForImageTextToText and AutoModelForCausalLM map, with random weights and
from nothing but its configuration, extracts from it with the command line, compares all that the store holds with
eager forwards that share no code with the capture, and writes the table in `MODELS.md`.
"""

from actstore_extract.models.vision import torchvision_ready

torchvision_ready()  # before Transformers imports what is there
