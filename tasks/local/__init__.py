"""A whole job on this machine, with its own Redis and workers."""
