"""The format of a dataset: its files, parts and records."""
