"""The kinds of `python -m unified_jax.cli.probe`, one file each."""
