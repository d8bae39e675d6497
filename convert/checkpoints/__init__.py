"""Published and own checkpoints: fetched, read and checked."""
