"""Planned shards: submit, resume, retry, and keep the queue filled."""
