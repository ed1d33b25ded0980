"""A run: a recipe's model over its samples into a store."""
