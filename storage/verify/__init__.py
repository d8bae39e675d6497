"""The check that a dataset is whole."""
