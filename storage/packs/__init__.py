"""Packs: files with many parts each, which readers of Parquet see as one file."""
