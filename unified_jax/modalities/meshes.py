"""Reading clouds and meshes, writing clouds: PLY, OBJ and GLB through trimesh."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

SEED = 0
"""Of the points that are drawn on a mesh: the same file gives the same cloud."""


def read_cloud(path: Path, count: int, colours: bool) -> Float[np.ndarray, "k c"]:
    """`count` points of a file: a cloud's own, evenly chosen, or points spread evenly over a mesh's area.

    The longest side is scaled to fill the unit cube unless everything lies in it already. What has no colour is grey.
    Raises ValueError where the file cannot be read, has too few points, or is a mesh without area.
    """
    import trimesh

    try:
        if not path.exists():
            raise ValueError("no such file")
        loaded: Any = trimesh.load(path, process=False)
        geometry: Any = loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
    except ValueError as error:
        raise ValueError(f"it is no cloud or mesh that can be read ({error})") from None
    except (OSError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, EOFError) as error:
        raise ValueError(f"it is no cloud or mesh that can be read ({type(error).__name__}: {error})") from None
    if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
        xyz, rgb = _on_mesh(geometry, count)
    elif path.suffix.lower() not in (".ply", ".glb"):
        raise ValueError("the mesh has no faces")
    else:
        vertices = np.asarray(geometry.vertices)
        if len(vertices) < count:
            raise ValueError(f"expected at least {count} points, found {len(vertices)}")
        chosen = np.linspace(0, len(vertices) - 1, count).round().astype(int)
        own = np.asarray(getattr(geometry, "colors", np.zeros((0, 4))))
        xyz = vertices[chosen]
        rgb = own[chosen, :3] / 255 if len(own) == len(vertices) else np.full((count, 3), 0.7)
    if not np.isfinite(xyz).all():
        raise ValueError("it has points that are not finite")
    low, high = xyz.min(0), xyz.max(0)
    if low.min() < 0 or high.max() > 1:
        xyz = (xyz - (low + high) / 2) / max((high - low).max(), 1e-12) + 0.5
    return np.concatenate([xyz, rgb], axis=1).astype(np.float32) if colours else xyz.astype(np.float32)


def _on_mesh(mesh: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    if not mesh.area > 0:
        raise ValueError("the mesh has no area")
    xyz, face = trimesh.sample.sample_surface(mesh, count, seed=SEED)[:2]
    try:
        visual = mesh.visual.to_color() if mesh.visual.kind == "texture" else mesh.visual
        return np.asarray(xyz), np.asarray(visual.face_colors)[np.asarray(face), :3] / 255
    except (AttributeError, IndexError, ValueError):
        return np.asarray(xyz), np.full((count, 3), 0.7)


def write_ply(path: Path, cloud: Float[np.ndarray, "k c"]) -> None:
    """A cloud as PLY (or GLB, by the path's ending), with its colours if it has any."""
    import trimesh

    colours = np.round(np.clip(cloud[:, 3:], 0, 1) * 255).astype(np.uint8) if cloud.shape[1] == 6 else None
    trimesh.PointCloud(cloud[:, :3], colors=colours).export(path)
