"""Single items: queued, batched and embedded."""
