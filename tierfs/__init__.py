"""A FUSE caching file system for GPU nodes."""

__version__ = "0.1.0"
