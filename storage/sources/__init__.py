"""The sources of items: folders of images, and tables."""
