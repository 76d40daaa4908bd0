"""Colours of point clouds and meshes in [0, 1], from any of a file's representations.

In this order: a texture by the corners' coordinates (times a glTF's colour factor and vertex colours), the colours of
vertices (between them by distance) or of faces, the one colour of a material, grey. PLY files name their colours red,
diffuse_red or r, in bytes, 16 bits or floats.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from unified_jax.modalities.pictures import check_pixels, pixels

CLOUD_GREY, MESH_GREY = 0.7, 0.4
"""The colour of point clouds and meshes without colours."""
PLY_NAMES = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))


def cloud_colours(cloud: Any) -> Float[np.ndarray, "n 3"]:
    """The colour of every point."""
    count = len(cloud.vertices)
    if (own := ply_colours(cloud, "vertex", count)) is not None:
        return own
    colours = np.asarray(getattr(cloud, "colors", np.zeros((0, 4))))
    return colours[:, :3] / 255 if len(colours) == count else np.full((count, 3), CLOUD_GREY)


def surface_colours(
    mesh: Any, face: Int[np.ndarray, " n"], weights: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """The colours of points on these faces, at these barycentric weights."""
    corners = np.asarray(mesh.faces)[face]
    visual = mesh.visual
    textured = visual.kind == "texture"
    if textured and (sampled := _texture(visual, corners, weights)) is not None:
        return sampled * _attribute(mesh, corners, weights)
    if (own := ply_colours(mesh, "vertex", len(mesh.vertices))) is not None:
        return _between(own, corners, weights)
    if (own := ply_colours(mesh, "face", len(mesh.faces))) is not None:
        return own[face]
    if visual.kind == "vertex":
        return _between(np.asarray(visual.vertex_colors)[:, :3] / 255, corners, weights)
    if visual.kind == "face":
        return np.asarray(visual.face_colors)[face, :3] / 255
    if textured:
        one = np.asarray(visual.material.main_color, np.float64)[:3] / 255
        return np.broadcast_to(one * _attribute(mesh, corners, weights), (len(face), 3))
    return np.full((len(face), 3), MESH_GREY)


def _texture(visual: Any, corners: np.ndarray, weights: np.ndarray) -> np.ndarray | None:
    """Colours of the texture at these coordinates; None without a texture."""
    from trimesh.visual.material import PBRMaterial, SimpleMaterial

    material, factor = visual.material, np.ones(3)
    if isinstance(material, PBRMaterial):
        image = material.baseColorTexture
        if material.baseColorFactor is not None:
            factor = np.asarray(material.main_color, np.float64)[:3] / 255
    elif isinstance(material, SimpleMaterial):
        image = material.image
    else:
        raise ValueError(f"its material ({type(material).__name__}) is of an unsupported kind")
    if image is None or visual.uv is None or not len(visual.uv):
        return None
    check_pixels(image)
    picture = pixels(image.convert("RGB") if image.mode in ("RGBA", "LA", "PA") else image, 3) / 255
    uv = _between(np.asarray(visual.uv, np.float64), corners, weights)
    if not np.isfinite(uv).all():
        raise ValueError("it has texture coordinates that are not finite")
    uv = np.where((uv >= 0) & (uv <= 1), uv, uv % 1)  # outside, the texture repeats
    height, width = picture.shape[:2]
    column = np.minimum((uv[:, 0] * width).astype(int), width - 1)
    row = np.minimum(((1 - uv[:, 1]) * height).astype(int), height - 1)
    return picture[row, column] * factor


def _attribute(mesh: Any, corners: np.ndarray, weights: np.ndarray) -> np.ndarray | float:
    """The vertex colours of a glTF, which multiply its texture."""
    found = mesh.vertex_attributes.get("color")
    if found is None or len(found) != len(mesh.vertices):
        return 1.0
    levels = np.asarray(found)[:, :3]
    return _between(levels if np.issubdtype(levels.dtype, np.floating) else levels / 255, corners, weights)


def ply_colours(part: Any, element: str, count: int) -> Float[np.ndarray, "n 3"] | None:
    """The colours that a PLY file has for its vertices or faces; None without, or where trimesh has split vertices."""
    found = part.metadata.get("_ply_raw", {}).get(element, {})
    properties, data = found.get("properties", {}), found.get("data")
    for names in PLY_NAMES:
        if data is None or not all(name in properties for name in names):
            continue
        table = np.stack([np.asarray(data[name], np.float64).reshape(-1) for name in names], axis=1)
        if len(table) != count:
            return None
        if not np.isfinite(table).all():
            raise ValueError("it has colours that are not finite")
        kind = np.dtype(properties[names[0]])
        top = float(np.iinfo(kind).max) if kind.kind == "u" and kind.itemsize <= 2 else 255.0
        if kind.kind == "f" and table.max(initial=0) <= 1:
            top = 1.0
        return np.clip(table / top, 0, 1)
    return None


def _between(values: np.ndarray, corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (values[corners] * weights[..., None]).sum(1)
