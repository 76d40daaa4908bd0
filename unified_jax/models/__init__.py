"""Generative models: network + process + modality, frozen dataclasses with `init`, `axes`, `losses` and `generate`."""
