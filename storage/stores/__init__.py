"""Files in object stores, on the hub and on web servers, read as those of a disk are."""
