"""Families of diffusion transformers."""

from collections.abc import Callable
from typing import Any

CLASSES: dict[str, Callable[..., dict[str, Any]]] = {}
"""Class of diffusers -> run(tensors, its constructor's arguments), for the family `diffusers_model`."""

RUNNERS: dict[str, Callable[..., dict[str, Any]]] = {}
"""Family -> how it is computed here, float32."""
