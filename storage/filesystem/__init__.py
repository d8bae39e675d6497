"""Disks and object stores on which the first writer wins."""
