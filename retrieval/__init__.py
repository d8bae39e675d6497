"""From a dataset to answers: indexes, exact search, evaluation, exports."""
