"""Items of equal bytes: their fingerprints, and vectors that are copied."""
