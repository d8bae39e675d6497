"""Small parts are put together into large files."""
