"""Where samples come from: each source is one file, a class of what its recipe section says and the table it makes."""

from actstore_extract.samples.capitals import Capitals
from actstore_extract.samples.coco import Coco
from actstore_extract.samples.digits import Digits
from actstore_extract.samples.flickr30k import Flickr30k
from actstore_extract.samples.gcide import Gcide
from actstore_extract.samples.gqa import Gqa
from actstore_extract.samples.hub import Hub
from actstore_extract.samples.imagefolder import ImageFolder
from actstore_extract.samples.imagenet import ImageNet
from actstore_extract.samples.llava import Llava
from actstore_extract.samples.llava_bench import LlavaBench
from actstore_extract.samples.mme import Mme
from actstore_extract.samples.openmoji import OpenMoji
from actstore_extract.samples.pope import Pope
from actstore_extract.samples.source import Samples, SamplesError, Source
from actstore_extract.samples.table import Table
from actstore_extract.samples.vqav2 import Vqav2

__all__ = ["SOURCES", "Samples", "SamplesError", "Source"]

SOURCES: dict[str, type[Source]] = {
    "capitals": Capitals,
    "digits": Digits,
    "openmoji": OpenMoji,
    "gcide": Gcide,
    "imagefolder": ImageFolder,
    "imagenet": ImageNet,
    "flickr30k": Flickr30k,
    "coco": Coco,
    "vqav2": Vqav2,
    "llava": Llava,
    "pope": Pope,
    "gqa": Gqa,
    "mme": Mme,
    "llava-bench": LlavaBench,
    "hub": Hub,
    "table": Table,
}
