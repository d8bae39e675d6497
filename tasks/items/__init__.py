"""Single items: queued, gathered into batches, embedded."""
