"""Patch sampling and augmentation; drawing parameters is apart from applying them."""
