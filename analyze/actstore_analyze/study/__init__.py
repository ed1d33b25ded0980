"""What the studies of measures share: a measure at each role and layer of a store."""
