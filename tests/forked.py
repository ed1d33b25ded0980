"""Processes that tests start, listen to and kill: forked from one server, which has imported once what they need."""

import multiprocessing

__all__ = ["processes"]

processes = multiprocessing.get_context("forkserver")
# One list for all tests: there is one server, and the list that is set last is its list.
processes.set_forkserver_preload(
    [
        "actstore.maintain.compaction",
        "actstore_analyze.knockout.study",
        "actstore_analyze.probe.study",
        "actstore_analyze.study.executor",
        "actstore_extract.run.runner",
        "faiss",
        "sklearn.datasets",
        "transformers.models.chameleon.modeling_chameleon",
        "transformers.models.llava_onevision.modeling_llava_onevision",
        "zarr",
    ]
)
