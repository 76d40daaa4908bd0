"""Flax layers that the network families share. They take values, never a config object."""
