"""From texts to token ids, and the vocabulary."""
