"""A run once more: recomputed to be compared, or to repair what is damaged."""
