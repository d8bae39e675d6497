"""A dataset's vectors in the files that other programs load."""
