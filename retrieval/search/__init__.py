"""Search: queries, their nearest rows of an index, and what shows or keeps the answers."""
