"""A whole job on this machine: a Redis and workers of its own."""
