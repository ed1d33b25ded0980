"""Attention knockouts: what a model still does without some of its attention."""
