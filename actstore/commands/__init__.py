"""The command line of the store, and how commands of other packages join it."""
