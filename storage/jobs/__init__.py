"""The jobs of a dataset: plans are read, retries are told apart."""
