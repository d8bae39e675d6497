"""The proof that a dataset is whole."""
