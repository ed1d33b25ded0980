"""Quantised weights: by which method a checkpoint has them, and whether they run as they are."""

from transformers import PretrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from actstore.errors import nearest
from actstore_extract.families.errors import LoadError

__all__ = ["keep_method", "method", "quantised"]

_KEPT = "actstore_quantised"


def method(config: PretrainedConfig) -> str | None:
    """How a checkpoint's weights are quantised, such as gptq; None where they are not.

    LoadError for a method that Transformers does not have: it would leave what it does not know out, and go on.
    """
    said = getattr(config, "quantization_config", None)
    if said is None:
        return None
    told = said if isinstance(said, dict) else said.to_dict()
    bits = next((f"bitsandbytes_{n}bit" for n in (4, 8) if told.get(f"load_in_{n}bit")), None)
    found = bits or str(getattr(told.get("quant_method"), "value", told.get("quant_method")))
    if found not in AUTO_QUANTIZER_MAPPING:
        known = sorted(AUTO_QUANTIZER_MAPPING)
        hint = nearest(found, known, f"it reads {', '.join(known)}")
        raise LoadError(f"Transformers does not read weights quantised by {found!r}{hint}")
    return found


def keep_method(module: PreTrainedModel, found: str | None) -> None:
    """Keep with a model how its checkpoint was quantised, and whether the weights still are."""
    if found is not None and method(module.config) is None:
        found = f"{found}, taken back to {str(module.dtype).removeprefix('torch.')}"
    module.__dict__[_KEPT] = found


def quantised(module: PreTrainedModel) -> str | None:
    """How the weights of a loaded model are quantised, for the run card; None where they are not."""
    found: str | None = vars(module).get(_KEPT)
    return found
