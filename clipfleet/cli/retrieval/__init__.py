"""Commands from the vectors to an answer: indexes, search, evaluation, exports."""
