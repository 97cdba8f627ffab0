"""The index: LMDB environments and the records in them. `Index.open` opens all of it."""

from tierfs.index.index import Index

__all__ = ["Index"]
