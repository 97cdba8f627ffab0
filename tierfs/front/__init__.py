"""The port to whatever fills and serves."""
