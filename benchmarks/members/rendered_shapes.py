"""Images of spheres, boxes and cones with their depth, rendered here: what gates of images and depth learn from.

A camera looks over a floor at a wall. On the floor stand a few shapes of random kind, size, place, colour and pattern,
in light from a random side; neither brightness nor colour nor size says how far away a thing is. Depth is the distance
along the camera's axis in millimetres; one pixel of fifty was not measured (0), nor what is beyond eight metres.
"""

import shutil
from pathlib import Path

import numpy as np
from gates import eyespot
from jaxtyping import Bool, Float64
from PIL import Image

SHAPES = "rendered-shapes"
NUM_TRAIN, NUM_TEST = 2000, 200
SIZE = 48
FARTHEST = 8.0  # metres
UNMEASURED = 1 / 50
Points = Float64[np.ndarray, "n 3"]
Hit = tuple[Float64[np.ndarray, " n"], Points]
"""How far along each ray, infinite where it passes by; and the surface's normal there."""


def pack(name: str, work: Path, data: Path) -> None:
    """Makes the shards of that name in ``work``, unless they are there."""
    if (work / name / "train" / "manifest.json").exists():
        return
    files = work / f"{name}-files"
    shutil.rmtree(files, ignore_errors=True)
    for split, count, seed in (("train", NUM_TRAIN, 1), ("test", NUM_TEST, 2)):
        folder = files / split / "scenes"
        folder.mkdir(parents=True)
        for number in range(count):
            pixels, depth = render(np.random.default_rng((seed, number)))
            Image.fromarray(pixels).save(folder / f"{number:04d}.png")
            Image.fromarray(depth).save(folder / f"{number:04d}.depth.png")
    eyespot("shards", "pack", str(files), str(work / name))


def render(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A scene: pixels (SIZE, SIZE, 3) of 8 bits, and depth (SIZE, SIZE) of 16 bits."""
    places = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    across, down = np.meshgrid(places, places)
    rays = np.stack([across, -down, np.ones_like(across)], axis=-1).reshape(-1, 3)  # per metre along the axis
    floor, wall = -generator.uniform(0.8, 1.6), generator.uniform(4.5, 9.5)
    light = np.array([generator.uniform(-1, 1), generator.uniform(0.4, 1.2), generator.uniform(-1.2, -0.2)])
    light /= np.linalg.norm(light)
    depth, colour = np.full(len(rays), np.inf), np.zeros((len(rays), 3))
    surfaces = [_plane(rays, np.array([0.0, 1, 0]), floor), _plane(rays, np.array([0.0, 0, -1]), -wall)]
    surfaces += [_shape(rays, generator, floor) for _ in range(generator.integers(2, 5))]
    for along, normals in surfaces:
        painted = _painted(rays, along, normals, light, generator)
        nearer = along < depth
        depth[nearer], colour[nearer] = along[nearer], painted[nearer]
    pixels = 255 * colour * generator.uniform(0.7, 1.1) + generator.normal(0, 4, colour.shape)
    measured = (depth < FARTHEST) & (generator.random(len(depth)) >= UNMEASURED)
    stored = np.where(measured, np.minimum(1000 * depth, 65_535), 0).round().astype(np.uint16)
    return pixels.clip(0, 255).astype(np.uint8).reshape(SIZE, SIZE, 3), stored.reshape(SIZE, SIZE)


def _shape(rays: Points, generator: np.random.Generator, floor: float) -> Hit:
    """One that stands on the floor."""
    z = generator.uniform(2.2, 6.0)
    x, turn = generator.uniform(-0.45, 0.45) * z, generator.uniform(0, np.pi)
    width, height = generator.uniform(0.25, 0.8), generator.uniform(0.5, 1.6)
    kind = generator.integers(3)
    if kind == 0:
        return _sphere(rays, np.array([x, floor + width, z]), width)
    if kind == 1:
        return _box(rays, np.array([x, floor + height / 2, z]), np.array([width, height / 2, 0.7 * width]), turn)
    return _cone(rays, np.array([x, floor + height, z]), width, height)


def _plane(rays: Points, normal: np.ndarray, offset: float) -> Hit:
    along = offset / np.where(rays @ normal == 0, np.nan, rays @ normal)
    return np.where(along > 0, along, np.inf), np.broadcast_to(normal, rays.shape)


def _sphere(rays: Points, centre: np.ndarray, radius: float) -> Hit:
    a, b, c = (rays**2).sum(1), rays @ centre, centre @ centre - radius**2
    along = _first(a, b, c)
    return along, (_points(rays, along) - centre) / radius


def _box(rays: Points, centre: np.ndarray, half: np.ndarray, turn: float) -> Hit:
    """Slab by slab, in the box's own axes."""
    axes = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    own, start = rays @ axes.T, -axes @ centre
    own = np.where(np.abs(own) < 1e-9, 1e-9, own)
    ends = np.stack([(-half - start) / own, (half - start) / own])
    enter, leave = ends.min(0), ends.max(0)
    along, axis = enter.max(1), enter.argmax(1)
    hit = (along < leave.min(1)) & (along > 0)
    normals = -np.sign(own[np.arange(len(own)), axis])[:, None] * axes[axis]
    return np.where(hit, along, np.inf), normals


def _cone(rays: Points, tip: np.ndarray, radius: float, height: float) -> Hit:
    """Its mantle, which hides the bottom that stands on the floor."""
    slope = np.array([1.0, -((radius / height) ** 2), 1.0])
    a, b, c = (rays**2) @ slope, (rays * tip) @ slope, (tip**2) @ slope
    along = _first(a, b, c)
    points = _points(rays, along) - tip
    inside = (points[:, 1] <= 0) & (points[:, 1] >= -height)
    normals = points * slope
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return np.where(inside, along, np.inf), normals


def _first(a: np.ndarray, b: np.ndarray, c: np.ndarray | float) -> np.ndarray:
    """The smaller positive root of a t^2 - 2 b t + c = 0; infinite where there is none."""
    under = b**2 - a * c
    root = np.sqrt(np.maximum(under, 0))
    roots = np.sort(np.stack([(b - root) / a, (b + root) / a]), axis=0)
    along = np.where(roots[0] > 0, roots[0], roots[1])
    return np.where((under > 0) & (along > 0), along, np.inf)


def _points(rays: Points, along: np.ndarray) -> Points:
    return rays * np.where(np.isfinite(along), along, 0)[:, None]


def _painted(
    rays: Points, along: np.ndarray, normals: Points, light: np.ndarray, generator: np.random.Generator
) -> Points:
    """Colour in 0..1: a pattern of stripes or squares that lies in space, in diffuse light."""
    base, other = generator.uniform(0.15, 1, 3), generator.uniform(0.15, 1, 3)
    period, phase = generator.uniform(0.2, 1.2), generator.uniform(0, 1, 3)
    cells = np.floor(_points(rays, along) / period + phase).astype(np.int64)
    first: Bool[np.ndarray, " n"] = cells[:, generator.permutation(3)[: generator.integers(0, 4)]].sum(1) % 2 == 0
    shade = 0.3 + 0.7 * np.maximum(normals @ light, 0)
    return np.where(first[:, None], base, other) * shade[:, None]
