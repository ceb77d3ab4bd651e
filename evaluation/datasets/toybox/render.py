"""Render a scene as an image, and an object as the layers it is made of.

A pixel is background + sum over layers of coverage * (paint - background), where the coverage at an edge is a ramp one
pixel wide in signed distance: coverage = clip(1/2 - distance * size, 0, 1). Small images are drawn at `FINE` or more
and averaged over boxes, so an image at 16 is the average of the same image at 64. Values are blended as stored (sRGB),
so that averaging images commutes with drawing them.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ediffi.evaluation.datasets.toybox.scene import ALONE_SCALE, BACKGROUNDS, COLOURS, EXTENTS, Placed, Scene

Floats = NDArray[np.float32]

OUTLINE: Final = 0.28  # thickness of the black outline, in radii; it lies inside the silhouette
STRIPES: Final = 0.16  # period in frame units, half colour and half white; `ALONE_SCALE` times it for a single object
CROSS_ARM: Final = 0.46  # half the thickness of the arms of the cross, in radii
FINE: Final = 64  # images are drawn with at least this many pixels a side


class Layers(NamedTuple):
    """How much of each pixel an object covers with each paint, in [0, 1]; the three sum to its silhouette."""

    colour: Floats
    black: Floats
    white: Floats

    @property
    def silhouette(self) -> Floats:
        """Coverage by the object as a whole."""
        return self.colour + self.black + self.white


def render(scene: Scene, size: int) -> NDArray[np.uint8]:
    """The anti-aliased image of a scene, [size, size, 3] RGB, 0 to 255; `size` is from 8 to 1024."""
    if not 8 <= size <= 1024:
        raise ValueError(f"size is {size}; allowed: 8 to 1024")
    factor = -(-FINE // size)
    fine = size * factor
    centres = ((np.arange(fine) + 0.5) / fine).astype(np.float32)
    background = np.array(BACKGROUNDS[scene.background], np.float32)
    image = np.tile(background, (fine, fine, 1))
    for placed in scene.placed():
        rows, columns = _span(placed, placed.y, fine), _span(placed, placed.x, fine)
        layers = draw(placed, scene.style, len(scene.objects), centres[rows], centres[columns], fine)
        paints = np.array([COLOURS[placed.object.colour], (0, 0, 0), (255, 255, 255)], np.float32)
        for coverage, paint in zip(layers, paints, strict=True):
            image[rows, columns] += coverage[..., None] * (paint - background)
    if factor > 1:
        image = image.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
    return np.rint(image).clip(0, 255).astype(np.uint8)


def draw(placed: Placed, style: str, num_objects: int, rows: Floats, columns: Floats, size: int) -> Layers:
    """The layers [h, w] of one object on a grid of pixels.

    `rows` [h] and `columns` [w] are y and x of the pixel centres in frame units. `size` is the side of the frame in
    pixels and sets the width of the edges. The stripes of the only object of a scene are wider.
    """
    x, y = columns[None, :] - np.float32(placed.x), rows[:, None] - np.float32(placed.y)
    distance = _distance(placed.object.shape, x, y, placed.radius)
    whole = _ramp(distance, size)
    none = np.zeros_like(whole)
    if style == "outlined":
        inside = _ramp(distance + np.float32(OUTLINE * placed.radius), size)
        return Layers(inside, whole - inside, none)
    if style == "striped":
        period = np.float32(STRIPES * (ALONE_SCALE if num_objects == 1 else 1.0))
        band = _ramp(np.abs(y - period * np.rint(y / period)) - period / 4, size)
        return Layers(whole * band, none, whole * (1 - band))
    return Layers(whole, none, none)


def _distance(shape: str, x: Floats, y: Floats, radius: float) -> Floats:
    """Signed distance to a shape's edge near that edge, negative inside; the box around the shape is centred at 0."""
    half = np.float32(EXTENTS[shape] * radius)
    if shape == "circle":
        return np.hypot(x, y) - half
    box = np.maximum(np.abs(x), np.abs(y)) - half
    if shape == "square":
        return box
    if shape == "cross":
        arm = np.float32(CROSS_ARM * radius)
        flat = np.maximum(np.abs(x) - half, np.abs(y) - arm)
        return np.minimum(flat, np.maximum(np.abs(x) - arm, np.abs(y) - half))
    # The triangle stands on its base: corners (-half, half), (half, half), (0, -half), sides of slope 2. Its sharp
    # corners are cut off at the box, or the edge's ramp would run on past them.
    return np.maximum(box, (2 * np.abs(x) - y - half) / np.float32(5**0.5))


def _ramp(distance: Floats, size: int) -> Floats:
    return np.clip(0.5 - distance * np.float32(size), 0, 1)


def _span(placed: Placed, centre: float, size: int) -> slice:
    """The pixels that the object reaches along the axis with that centre, and one more."""
    half = EXTENTS[placed.object.shape] * placed.radius * size + 1.0
    return slice(max(int(np.floor(centre * size - half)), 0), min(int(np.ceil(centre * size + half)), size))
