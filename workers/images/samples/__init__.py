"""Photographs with which engines and decoders are verified; LICENCE.md names their owners."""
