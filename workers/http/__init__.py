"""The policy of URLs, and fetching."""
