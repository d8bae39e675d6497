"""How good the vectors are: recall against gold pairs, and the comparison of two datasets."""
