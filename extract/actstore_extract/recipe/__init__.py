"""Recipes: what to run, on which samples, and what to keep."""
