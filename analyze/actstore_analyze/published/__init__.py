"""What the papers published, to be set beside one's own."""
