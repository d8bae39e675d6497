"""Sources, plans, parts and manifests: a dataset on a file system."""
