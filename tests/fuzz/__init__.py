"""Fuzzing: whatever comes in by a file or a message ends as an error of ours, or is right."""
