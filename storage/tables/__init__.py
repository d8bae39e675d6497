"""Tables as sources: text, JSON, Parquet, and the guide's data."""
