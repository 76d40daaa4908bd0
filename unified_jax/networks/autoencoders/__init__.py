"""Autoencoders: networks between data and latents, and the quantisers between the two."""
