"""Training: a linear adapter between frozen models, or LoRA in a model that sees and draws; vectors for torch."""
