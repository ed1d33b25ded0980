"""Imports: what other tools keep, read and written as a store."""
