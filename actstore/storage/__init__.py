"""Where the bytes of a store live."""
