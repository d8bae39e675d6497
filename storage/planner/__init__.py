"""From a source to a plan."""
