"""The plan of a dataset: its jobs and their shards, and the failures that retries take."""
