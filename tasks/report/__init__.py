"""The report of a dataset: a page for people."""
