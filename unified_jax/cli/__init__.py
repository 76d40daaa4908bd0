"""Command lines: thin wrappers of the library."""
