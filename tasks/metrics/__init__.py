"""Metrics for Prometheus: of a worker, and of the queues."""
