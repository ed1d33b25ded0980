"""What sae-lens' configuration says of an autoencoder, in the words of any of its versions: obeyed, or refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from actstore.errors import ActstoreError
from actstore_analyze.sae.hook import Hook, residual

__all__ = ["Configuration"]

# Words of sae-lens before version 3, and what it calls them since.
SINCE = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
KINDS: dict[str, type] = {
    **dict.fromkeys(("architecture", "hook_name", "hook_name_out", "activation_fn", "reshape_activations"), str),
    **dict.fromkeys(("normalize_activations", "model_class_name", "model_name"), str),
    **dict.fromkeys(("hook_layer", "hook_head_index", "k", "d_in", "d_sae", "max_iterations"), int),
    **dict.fromkeys(("apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "stop_on_duplicate_support"), bool),
    **dict.fromkeys(("activation_fn_kwargs", "model_from_pretrained_kwargs"), dict),
}
VECTOR_BY_VECTOR = ("standard", "gated", "topk", "abstopk", "jumprelu", "matching_pursuit")
OF_TRANSFORMERS = "AutoModelForCausalLM"  # sae-lens hooks the outputs of its modules


@dataclass(frozen=True)
class Configuration:
    """What is said, by today's names; `owner` is whose it is, in words."""

    owner: str
    said: Mapping[str, Any]

    @classmethod
    def of(cls, owner: str, config: object) -> Self:
        """The configuration in a cfg.json; raises ActstoreError if it asks for what is not done here."""
        if not isinstance(config, dict):
            raise ActstoreError(f"{owner}: its configuration is no table of names and values")
        metadata = {} if config.get("metadata") is None else config["metadata"]
        if not isinstance(metadata, dict):
            raise ActstoreError(f"{owner}: its configuration's metadata is no table of names and values")
        said = {SINCE.get(name, name): value for name, value in {**config, **metadata}.items()}
        for name, kind in KINDS.items():
            if not isinstance(said.get(name), kind | None):
                raise ActstoreError(
                    f"{owner}: its configuration says {name} = {str(said[name])[:60]!r}: no {kind.__name__}"
                )
        for reason in _not_done(said):
            raise ActstoreError(f"{owner}: {reason}")
        return cls(owner, said)

    @property
    def hook(self) -> Hook | None:
        """Where it was trained, None if that is not said; raises ActstoreError for a place that no store keeps."""
        name = self.said.get("hook_name")
        if not name:
            return None
        hook = residual(str(name), self.owner)
        layer = self.said.get("hook_layer")
        if layer is not None and layer != hook.block:
            raise ActstoreError(f"{self.owner}: its configuration says {name}, but layer {layer}: mend one of them")
        if hook.side is None and self.said.get("model_class_name") == OF_TRANSFORMERS:
            return Hook("post", hook.block)
        return hook


def _not_done(said: Mapping[str, Any]) -> Iterator[str]:
    """Why an autoencoder cannot be measured on vectors of the residual stream, or would be measured wrongly."""
    architecture = said.get("architecture") or "standard"
    into, out_of = said.get("hook_name"), said.get("hook_name_out")
    if "transcoder" in architecture or (out_of and out_of != into):
        yield f"a transcoder ({architecture}, from {into} to {out_of}) does not rebuild what it reads"
    if architecture not in VECTOR_BY_VECTOR:
        yield f"architecture {architecture} is not one that is read here: {', '.join(VECTOR_BY_VECTOR)}"
    if said.get("hook_head_index") is not None:
        yield f"it is of attention head {said['hook_head_index']} alone; a store keeps no results of heads"
    if said.get("reshape_activations", "none") != "none":
        yield f"it reads vectors reshaped ({said['reshape_activations']}): of attention heads, which no store keeps"
    activation, k = said.get("activation_fn") or "relu", (said.get("activation_fn_kwargs") or {}).get("k")
    topk = activation == "topk" and (architecture == "topk" or k is not None)
    if activation != "relu" and not topk:
        yield f"activation {activation} is not done by sae-lens any more, which would take relu instead"
    if (said.get("model_from_pretrained_kwargs") or {}).get("center_writing_weights"):
        yield (
            "it was trained on a model with center_writing_weights (TransformerLens), whose residual stream has mean 0 "
            "over dimensions; vectors of a store are as the model has them"
        )
