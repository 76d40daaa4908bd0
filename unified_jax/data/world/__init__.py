"""The world: a seeded generator of scenes, their renderings, and readers that recover the attributes from an array."""

from unified_jax.data.world.source import World, WorldSource

__all__ = ["World", "WorldSource"]
