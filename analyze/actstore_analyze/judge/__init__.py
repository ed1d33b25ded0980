"""A language model as judge, behind an OpenAI-compatible endpoint."""
