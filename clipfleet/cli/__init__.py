"""The command line: thin covers of the public functions, options, and what is printed."""
