"""Real pictures and texts that every conversion is verified with; LICENCE.md says whose."""
