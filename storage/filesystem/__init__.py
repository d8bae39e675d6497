"""Local disks and object stores, in which only one of several writers can create a file."""
