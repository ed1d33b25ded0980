"""What is done to a whole store: verified, compacted, cleared of orphans."""
