"""The guide's whole run: both towers, nearest neighbours and recall, in every runtime."""
