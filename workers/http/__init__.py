"""URLs: which are allowed, and how they are fetched."""
