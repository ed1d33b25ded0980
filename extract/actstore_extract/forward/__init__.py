"""One forward of a model, and what is kept of it."""
