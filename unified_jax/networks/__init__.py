"""Flax networks, one family a file: tokens in, tokens out. Nothing here knows what a token shows."""
