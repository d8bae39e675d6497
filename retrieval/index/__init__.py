"""An index of a dataset: vectors, items and codes in a folder; how it is built, read and checked.

docs/reference/index-format.md describes the files.
"""
