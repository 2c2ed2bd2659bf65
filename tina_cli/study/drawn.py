"""DRAWN pictures: coloured shapes on grey, for running the study in miniature where there are no data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tina_cli.rng import numpy_rng
from tina_cli.study.pictures import SIDE

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "yellow": (230, 210, 50)}
SHAPES = ("circle", "square", "triangle", "cross")


def drawn_classes(count: int, purpose: str) -> dict[str, Tensor]:
    """Return `count` pictures of every colour and shape, as bytes [count, 3, 32, 32] by class name."""
    return {f"{colour} {shape}": draw(colour, shape, count, purpose) for colour in COLOURS for shape in SHAPES}


def draw(colour: str, shape: str, count: int, purpose: str) -> Tensor:
    """Return pictures of one class, in places, sizes and shades that differ."""
    rng = numpy_rng(0, "drawn", purpose, colour, shape)
    y, x = np.mgrid[:SIDE, :SIDE]
    out = []
    for _ in range(count):
        cx, cy = rng.uniform(10, SIDE - 10, 2)
        size = rng.uniform(5, 10)
        dx, dy = (x - cx) / size, (y - cy) / size
        inside = {
            "circle": dx**2 + dy**2 < 1,
            "square": (abs(dx) < 0.9) & (abs(dy) < 0.9),
            "triangle": (dy < 0.8) & (dy > 2 * abs(dx) - 1),
            "cross": ((abs(dx) < 0.3) | (abs(dy) < 0.3)) & (abs(dx) < 1) & (abs(dy) < 1),
        }[shape]
        picture = rng.uniform(70, 190) + rng.normal(0, 25, (SIDE, SIDE, 3))
        picture[inside] = np.array(COLOURS[colour]) * rng.uniform(0.6, 1.0) + rng.normal(0, 25, (int(inside.sum()), 3))
        out.append(picture.clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous()
