"""The pyfuse3 front."""
