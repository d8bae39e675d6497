"""Planned shards: queued, queued again, and bounded."""
