"""From an item's bytes to its normalised vector."""
