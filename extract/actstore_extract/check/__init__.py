"""The self-check: whether what a run is about to store is what its model computes, and of the tokens it says."""
