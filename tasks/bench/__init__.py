"""The stages of embedding, each measured alone and all together, on a user's own items."""
