"""The model side of actstore: recipes, samples, model families, capture and the runner."""
