"""Reading point clouds and meshes, writing point clouds.

PLY, OBJ, GLB, glTF, STL and OFF are read by trimesh; XYZ is a table. Colours are those of the file (`mesh_colours`), or
grey.
"""

import io
import json
import re
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from unified_jax.modalities.mesh_colours import cloud_colours, surface_colours
from unified_jax.modalities.reading import decode_text, first_line, read_bytes, told

SEED = 0
"""Seed of the points sampled on a mesh: the same file gives the same point cloud."""
FORMATS = (".ply", ".obj", ".glb", ".gltf", ".stl", ".off", ".xyz")
"""Suffixes of the supported formats; the suffix decides the format."""
LARGEST = 1 << 24
"""Most points of a file, over all copies of its parts; a broken header may claim any number."""
LONGEST_WALK = 1 << 14
"""Most steps from the roots of a scene to all of its nodes."""
_USHORT, _FLOAT = 5123, 5126
"""Kinds of number of a glTF accessor."""


def read_cloud(path: Path, count: int, colours: bool) -> Float[np.ndarray, "k c"]:
    """`count` points of a file: an even subset of a point cloud, or points distributed uniformly over a mesh's area.

    The longest side is scaled to fill the unit cube unless everything is in it already. Raises ValueError where the
    file cannot be read, has too few points, is a mesh without area, or lacks colours that are asked for.
    """
    kind = path.suffix.lower()
    content = read_bytes(path)
    if kind not in FORMATS:
        raise ValueError(f"expected a point cloud or mesh in a file that ends in {', '.join(FORMATS)}, found {kind!r}")
    with told("a point cloud or mesh"), np.errstate(all="ignore"):
        if kind == ".xyz":
            xyz, rgb = _evenly(_xyz_table(decode_text(content, path.name)), count)
        else:
            if colours:
                _check_pictures(path, content)
            xyz, rgb = _points_of(_parts(path, content), count, colours)
    if not np.isfinite(xyz).all():
        raise ValueError("it has points that are not finite")
    low, high = xyz.min(0), xyz.max(0)
    if low.min() < 0 or high.max() > 1:
        xyz = (xyz - (low + high) / 2) / max((high - low).max(), 1e-12) + 0.5
    return np.concatenate([xyz, rgb], axis=1).astype(np.float32) if colours else xyz.astype(np.float32)


def _parts(path: Path, content: bytes) -> list[Any]:
    """The point clouds and meshes of a file, each at its position."""
    import trimesh
    from trimesh.resolvers import FilePathResolver
    from trimesh.visual import ColorVisuals

    kind = path.suffix.lower()
    try:
        if kind in (".glb", ".gltf"):
            content = _checked_gltf(content, kind == ".glb")
        if kind == ".obj":
            content = _counted_from_the_start(content)
        resolver = FilePathResolver(str(path))
        plain = kind == ".ply" and not _ply_picture(content)
        load = partial(trimesh.load, fix_texture=False) if plain else trimesh.load
        loaded: Any = load(io.BytesIO(content), file_type=kind[1:], resolver=resolver, process=False)
        if plain and isinstance(loaded, trimesh.Trimesh):  # trimesh invents images for texture coordinates
            loaded.visual = ColorVisuals(loaded)
        if not isinstance(loaded, trimesh.Scene):
            return [loaded]
        names = [loaded.graph[node][1] for node in loaded.graph.nodes_geometry]
        copies = sum(len(loaded.geometry[name].vertices) for name in names)
        if copies > LARGEST:
            raise ValueError(f"it claims {copies} points, more than the {LARGEST} that are read")
        return loaded.dump()
    except Exception as error:  # readers raise any exception
        raise ValueError(f"it cannot be read as a point cloud or mesh ({first_line(error)})") from None


def _counted_from_the_start(content: bytes) -> bytes:
    """An OBJ whose faces name vertices by 1, 2, ..; a negative index counts back from those before the face.

    (trimesh counts back from the last vertex of the file.)
    """
    if not re.search(rb"^[fl]\s.*-\d", content, re.M):
        return content
    counts, found = {b"v": 0, b"vt": 0, b"vn": 0}, []
    for line in content.splitlines():
        words = line.split()
        if words and words[0] in counts:
            counts[words[0]] += 1
        elif words and words[0] in (b"f", b"l"):
            line = b" ".join([words[0], *(_absolute(word, tuple(counts.values())) for word in words[1:])])
        found.append(line)
    return b"\n".join(found) + b"\n"


def _absolute(corner: bytes, counts: tuple[int, ...]) -> bytes:
    """v, v/vt, v//vn or v/vt/vn with indices from the start."""
    parts = corner.split(b"/")
    placed = [
        b"%d" % (count + 1 + int(n)) if n.startswith(b"-") else n for n, count in zip(parts, counts, strict=False)
    ]
    return b"/".join(placed)


def _points_of(parts: list[Any], count: int, colours: bool) -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if meshes:
        return _on_meshes(meshes, count, colours)
    clouds = [part for part in parts if isinstance(part, trimesh.PointCloud | trimesh.Trimesh)]
    if not clouds:
        raise ValueError("it holds no points and no triangles")
    table = [np.concatenate([np.asarray(cloud.vertices), cloud_colours(cloud)], axis=1) for cloud in clouds]
    return _evenly(np.concatenate(table), count)


def _evenly(table: Float[np.ndarray, "n 6"], count: int) -> tuple[np.ndarray, np.ndarray]:
    if len(table) < count:
        raise ValueError(f"expected at least {count} points, found {len(table)}")
    chosen = table[np.linspace(0, len(table) - 1, count).round().astype(int)]
    return chosen[:, :3], chosen[:, 3:]


def _on_meshes(meshes: list[Any], count: int, colours: bool) -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    for mesh in meshes:
        faces = np.asarray(mesh.faces)
        if faces.min() < 0 or faces.max() >= len(mesh.vertices):
            raise ValueError("it has triangles with missing corners")
    before = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    vertices = np.concatenate([np.asarray(mesh.vertices) for mesh in meshes])
    faces = np.concatenate([np.asarray(mesh.faces) + n for mesh, n in zip(meshes, before[:-1], strict=True)])
    whole = trimesh.Trimesh(vertices, faces, process=False)
    if not 0 < whole.area < np.inf:
        raise ValueError("the mesh has no area, or corners that are not finite")
    xyz, face, weights = (np.asarray(a) for a in trimesh.sample.sample_surface(
        whole, count, seed=SEED, return_barycentric=True))  # fmt: skip
    rgb = np.zeros((count, 3))
    if colours:
        first = np.cumsum([0, *(len(mesh.faces) for mesh in meshes)])
        for mesh, start, stop in zip(meshes, first[:-1], first[1:], strict=True):
            here = (face >= start) & (face < stop)
            rgb[here] = surface_colours(mesh, face[here] - start, weights[here])
    return xyz, rgb


def _xyz_table(text: str) -> Float[np.ndarray, "n 6"]:
    """Lines of x y z, with or without r g b (in [0, 1] or 0 .. 255), separated by blanks or commas."""
    table = np.loadtxt(io.StringIO(text.replace(",", " ").replace(";", " ")), ndmin=2)
    if table.shape[1] not in (3, 6, 7):
        raise ValueError(f"expected lines of 3 numbers, or of 6 with a colour, found {table.shape[1]}")
    rgb = table[:, 3:6] if table.shape[1] > 3 else np.full((len(table), 3), 0.7)
    return np.concatenate([table[:, :3], rgb / (255 if len(rgb) and rgb.max() > 1 else 1)], axis=1)


def _check_pictures(path: Path, content: bytes) -> None:
    """Raises ValueError where an OBJ or PLY names materials or images that are missing."""
    named: list[tuple[str, ...]] = []
    if path.suffix.lower() == ".ply":
        named = [(name,) for name in [_ply_picture(content)] if name]
    elif path.suffix.lower() == ".obj":
        named = [
            (line[7:].decode(errors="replace").strip(),) for line in content.splitlines() if line[:7] == b"mtllib "
        ]
        for library in (path.parent / name for (name,) in tuple(named)):
            lines = read_bytes(library).decode(errors="replace").splitlines() if library.is_file() else []
            entries = (line.replace("\\", "/").split() for line in lines)
            named += [(" ".join(w[1:]), w[-1]) for w in entries if w[1:] and w[0].lower() == "map_kd"]  # after options
    for names in named:
        if not any((path.parent / name).is_file() for name in names):
            raise ValueError(f"its colours are in {names[0]!r}, which is missing from its folder; put it there")


def _ply_picture(content: bytes) -> str:
    """The image that a PLY's header names, or nothing."""
    header = content[: max(content.find(b"end_header"), 0)].splitlines()
    named = [line.decode(errors="replace") for line in header if b"texturefile" in line.lower()]
    return named[0][named[0].lower().index("texturefile") + 11 :].strip() if named else ""


def _checked_gltf(content: bytes, binary: bool) -> bytes:
    """A glTF within the limits, its 16-bit vertex colours as floats: trimesh reads them as 8-bit."""
    length = struct.unpack_from("<I", content, 12)[0] if binary else 0
    header = json.loads(content[20 : 20 + length] if binary else decode_text(content, "the glTF"))
    accessors = header.get("accessors", [])
    if sum(int(accessor["count"]) for accessor in accessors) > 4 * LARGEST:
        raise ValueError("it claims more points than the limit")
    _check_nodes(header.get("nodes", []))
    used = [p.get("attributes", {}).get("COLOR_0") for m in header.get("meshes", []) for p in m["primitives"]]
    wide = {i for i in used if i is not None and accessors[i]["componentType"] == _USHORT}
    if not wide or not binary:
        return content
    data = content[28 + length : 28 + length + struct.unpack_from("<I", content, 20 + length)[0]]
    for accessor in (accessors[i] for i in sorted(wide)):
        view = header["bufferViews"][accessor["bufferView"]]
        columns = {"VEC3": 3, "VEC4": 4}[accessor["type"]]
        offset = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        strides = (view.get("byteStride", 2 * columns), 2)
        levels = np.ndarray((accessor["count"], columns), "<u2", data, offset, strides)
        header["bufferViews"].append({"buffer": 0, "byteOffset": len(data), "byteLength": 4 * levels.size})
        accessor |= {"componentType": _FLOAT, "bufferView": len(header["bufferViews"]) - 1, "byteOffset": 0}
        data += (levels / 65535).astype("<f4").tobytes()
    header["buffers"][0]["byteLength"] = len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _check_nodes(nodes: list[dict[str, Any]]) -> None:
    """Raises ValueError where a scene's tree is so large or deep that following it would take minutes."""
    children = {child for node in nodes for child in node.get("children", [])}
    todo, steps = [(i, 1) for i in range(len(nodes)) if i not in children], 0
    while todo:
        node, depth = todo.pop()
        steps += depth
        if steps > LONGEST_WALK:
            raise ValueError("it has too many parts, or they are nested too deeply")
        todo += [(child, depth + 1) for child in nodes[node].get("children", [])]


def write_ply(path: Path, cloud: Float[np.ndarray, "k c"]) -> None:
    """A point cloud as PLY (or GLB, by the path's ending), with any colours."""
    import trimesh

    colours = np.round(np.clip(cloud[:, 3:], 0, 1) * 255).astype(np.uint8) if cloud.shape[1] == 6 else None
    trimesh.PointCloud(cloud[:, :3], colors=colours).export(path)
