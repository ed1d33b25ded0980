"""torchvision beside any torch: resizing and normalising need none of its compiled operators."""

from importlib import import_module
from importlib.util import find_spec

import torch

__all__ = ["MISSING", "torchvision_ready"]

MISSING = "its processor needs torchvision, which is not installed; make models brings it"
_OPERATORS = {
    "torchvision::nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a declaration holds as long as its library


def torchvision_ready() -> bool:
    """Whether torchvision is there, its operators declared where the build does not fit this torch.

    torchvision registers what its operators give for meta tensors as it is imported, and that fails where the
    compiled ones were not loaded: a build for another device, beside a torch for the CPU.
    """
    if find_spec("torchvision") is None:
        return False
    try:
        import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        _declared.append(library)
        for name, schema in _OPERATORS.items():
            if name not in torch._C._dispatch_get_all_op_names():
                library.define(schema)  # type: ignore[no-untyped-call]
        import_module("torchvision")
    return True
