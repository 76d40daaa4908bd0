"""Flax layers shared by the networks. They take values, never a config object."""
