"""Looking at a store: one of its samples on a page, and all of its points in the plane."""
