"""SQL over the tables of a store, on a connection that can read nothing else."""
