"""Near-duplicates of a dataset: which rows to keep, and which to drop for which kept row."""
