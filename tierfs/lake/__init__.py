"""The object store behind a mount: the port, and what implements it."""
