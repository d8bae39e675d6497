"""Archives as sources: tar shards and zip files, which are never unpacked."""
