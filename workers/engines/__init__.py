"""Engines: a tower compiled for one runtime, with one protocol for all runtimes."""
