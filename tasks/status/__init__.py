"""What is told of a dataset and of a fleet while they work: progress, stalls, refusals, workers."""
