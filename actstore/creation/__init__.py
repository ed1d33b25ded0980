"""What makes stores: an empty one with its plan, and a writer for hooks of one's own."""
