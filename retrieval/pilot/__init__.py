"""Bits and lists of an index are chosen by trying them on a sample."""
