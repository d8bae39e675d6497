"""Redis and the messages in it."""
