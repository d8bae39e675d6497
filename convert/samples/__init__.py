"""The pictures and texts with which conversions are verified; LICENCE.md names their owners."""
