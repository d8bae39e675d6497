"""The texts with which conversions are verified, written for this project."""
