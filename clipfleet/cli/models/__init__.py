"""Commands of models: they are prepared, converted, built, measured and examined."""
