"""A page on this machine where a person draws samples, takes noise off, and fills holes. Needs the extra `ui`."""
