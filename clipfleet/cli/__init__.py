"""The command line: commands that call the public functions, their options and their output."""
