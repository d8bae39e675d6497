"""Fuzzing: any file or message gives a right result or an error of clipfleet."""
