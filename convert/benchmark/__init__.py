"""Measure the latency of a tower in each runtime."""
