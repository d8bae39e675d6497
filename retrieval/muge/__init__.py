"""MUGE: the guide's data set, its whole run in every runtime, and the comparison of the results."""
