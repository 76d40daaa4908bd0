"""Flax networks, one family per file: tokens in, tokens out, whatever the modality."""
