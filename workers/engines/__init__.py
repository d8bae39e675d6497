"""A tower compiled for one runtime, behind one protocol."""
