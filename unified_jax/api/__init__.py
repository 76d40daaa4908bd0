"""The front door in Python: `import unified_jax as uj` gives these functions and the main names of every package."""
