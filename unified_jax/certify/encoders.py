"""Families of text and image encoders."""

from collections.abc import Callable
from typing import Any

RUNNERS: dict[str, Callable[..., dict[str, Any]]] = {}
"""Family -> how it is computed here, float32."""
