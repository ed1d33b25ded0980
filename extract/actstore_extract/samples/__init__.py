"""Where samples come from: each source is one file, a class of what its recipe section says and the table it makes."""

from actstore_extract.samples.digits import Digits
from actstore_extract.samples.imagefolder import ImageFolder
from actstore_extract.samples.source import Samples, SamplesError, Source
from actstore_extract.samples.table import Table

__all__ = ["SOURCES", "Samples", "SamplesError", "Source"]

SOURCES: dict[str, type[Source]] = {"digits": Digits, "imagefolder": ImageFolder, "table": Table}
