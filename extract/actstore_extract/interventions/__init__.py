"""What is changed while a model runs: attention blocked, vectors patched or steered."""
