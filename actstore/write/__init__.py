"""Writing one part of a store."""
