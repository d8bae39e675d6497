"""HTML pages: one file each, which needs nothing else."""
