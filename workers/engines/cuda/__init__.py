"""CUDA's runtime, without torch."""
