"""How long a call takes, in each runtime."""
