"""Sparse autoencoders of a store's vectors, trained with sae-lens and scored on samples that they never saw."""

from actstore_extract.training.saes.autoencoder import Settings, fit, save
from actstore_extract.training.saes.program import SCORES, train_saes

__all__ = ["SCORES", "Settings", "fit", "save", "train_saes"]
