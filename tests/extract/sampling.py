"""Sources of samples by their names, as recipes call them."""

from actstore_extract.samples import SOURCES


def source(name, **keys):
    return SOURCES[name](source=name, **keys)


def ids(found):
    return found.table["sample_id"].to_list()
