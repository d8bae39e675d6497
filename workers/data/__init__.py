"""Data files of the workers: the vocabulary."""
