"""Reading one part of a store."""
