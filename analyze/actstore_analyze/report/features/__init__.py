"""A page, and files, about features of sparse autoencoders."""
