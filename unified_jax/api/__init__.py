"""The front door in Python: `import unified_jax as uj` gives what stands here, and the main names of every room."""
