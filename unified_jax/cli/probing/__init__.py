"""The kinds of `python -m unified_jax.cli.probe`, a file each."""
