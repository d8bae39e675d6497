"""How a shard is committed, and the errors and ids that are known."""
