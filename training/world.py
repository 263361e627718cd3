"""A tiny world to film: one coloured shape on a dark ground, moving in one direction; and the sentence that says so."""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIZE = 64
GROUND = (24, 24, 32)
COLOURS = {
    "red": (230, 40, 40), "green": (40, 190, 60), "blue": (50, 90, 240),
    "yellow": (240, 220, 40), "white": (240, 240, 240), "purple": (170, 60, 220),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Scene:
    """What one film shows: radius and travel in pixels, `start` the centre's place in the first frame."""

    colour: str
    shape: str
    direction: str
    radius: float
    travel: float
    start: tuple[float, float]

    @property
    def caption(self) -> str:
        return caption(self.colour, self.shape, self.direction)


def caption(colour: str, shape: str, direction: str) -> str:
    """The sentence a film is asked for with."""
    return f"a {colour} {shape} moving {direction}"


def all_captions() -> list[tuple[str, str, str]]:
    """Every (colour, shape, direction)."""
    return list(itertools.product(COLOURS, SHAPES, DIRECTIONS))


def random_scene(rng: np.random.Generator) -> Scene:
    """A scene whose shape stays inside the picture; its path is about in the middle, so that it starts at one side.

    So the first frames depend on the direction, which makes it easier to learn.
    """
    direction = str(rng.choice(list(DIRECTIONS)))
    radius, travel = rng.uniform(11, 14), rng.uniform(25, 29)
    margin = SIZE / 2 - radius - 1
    start = [SIZE / 2 + (rng.uniform(-1, 1) * (margin - travel / 2) - step * travel / 2 if step
                         else rng.uniform(-8, 8)) for step in DIRECTIONS[direction]]
    colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
    return Scene(colour, shape, direction, radius, travel, (start[0], start[1]))


def random_words(scene: Scene, rng: np.random.Generator) -> str:
    """The caption; sometimes shorter, so that a prompt may leave something open; sometimes empty, for guidance."""
    colour, shape, direction = scene.colour, scene.shape, scene.direction
    choices = ["", f"{colour} {shape} moving {direction}", f"a {colour} {shape}", f"a {shape} moving {direction}",
               f"something {colour} moving {direction}", f"a {shape}", f"something {colour}", f"moving {direction}"]
    odds = [0.10, 0.06, 0.03, 0.03, 0.03, 0.02, 0.02, 0.02]
    pick = int(rng.choice(len(choices) + 1, p=[*odds, 1 - sum(odds)]))
    return [*choices, scene.caption][pick]


def film(scene: Scene, frames: int) -> Tensor:
    """The film of a scene, f 3 h w in -1..1, its edges smooth over one pixel."""
    time = torch.linspace(0, 1, frames)[:, None, None]
    dx, dy = DIRECTIONS[scene.direction]
    grid = torch.arange(SIZE, dtype=torch.float32) + 0.5
    x = grid[None, None, :] - scene.start[0] - dx * scene.travel * time
    y = grid[None, :, None] - scene.start[1] - dy * scene.travel * time
    inside = (scene.radius * INSIDE[scene.shape](x / scene.radius, y / scene.radius) + 0.5).clamp(0, 1)[:, None]
    colour, ground = (torch.tensor(c, dtype=torch.float32)[None, :, None, None] for c in
                      (COLOURS[scene.colour], GROUND))
    return (ground + inside * (colour - ground)) / 127.5 - 1


# How deep a point lies inside a shape of radius 1 (negative outside); the triangle has two thirds of the others' area.
INSIDE = {
    "circle": lambda x, y: 1 - (x**2 + y**2).sqrt(),
    "square": lambda x, y: 0.88 - torch.maximum(x.abs(), y.abs()),
    "triangle": lambda x, y: torch.minimum(0.85 - y, (1.05 + y - 1.73 * x.abs()) / 2),
}
