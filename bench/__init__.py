"""How fast it is: scripts that measure, each with its question in its docstring."""
