"""The commit of shards and of single items, and the manifest of what is committed."""
