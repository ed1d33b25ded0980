"""Training: a linear adapter between frozen models, or LoRA in a model that sees and draws; one loop for both."""
