"""A small network that reads a picture of the emoji world: which things are where, in which artist's style.

It divides a picture into 8 x 8 cells and says of each which concept, or none, is drawn there; and one style for all. So
it tells what is in a picture, where, and left of what. `examples/emoji` trains it on scenes whose truth is known.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ediffi.io import plain_json
from ediffi.io.files import replace, sha256

SIZE: Final = 64  # side of the pictures that it reads; others are resized
CELLS: Final = 8  # a side
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class SceneNetwork(nn.Module):
    """Logits of `num_concepts` and "nothing" for each cell, and of `num_styles` for the picture."""

    def __init__(self, num_concepts: int, num_styles: int, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _block(12, width // 2), _block(width // 2, width, stride=2))
        self.middle = _block(width, width)
        self.down = _block(width, 2 * width, stride=2)
        self.deep = nn.ModuleList(_block(2 * width, 2 * width) for _ in range(3))
        self.concepts = nn.Conv2d(2 * width, num_concepts + 1, 1)
        self.styles = nn.Linear(2 * width, num_styles)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b k 8 8"], Float[Tensor, "b s"]]:
        """The logits for images in [-1, 1]; "nothing" is the last of `k`."""
        x = self.stem(images)
        x = self.down(x + self.middle(x))
        for block in self.deep:
            x = x + block(x)
        return self.concepts(x), self.styles(x.amax((2, 3)))


def _block(inner: int, outer: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.SiLU())


@dataclass(frozen=True)
class Reading:
    """What the judge sees: the probability of each concept in each cell, and of each style."""

    cells: Float[np.ndarray, "k 8 8"]
    styles: Float[np.ndarray, " s"]


class SceneJudge:
    """A trained network with the names of what it knows: concepts by hexcode, and styles."""

    def __init__(self, network: SceneNetwork, concepts: Sequence[str], styles: Sequence[str], protocol: Any) -> None:
        self.network, self.concepts, self.styles = network.eval(), tuple(concepts), tuple(styles)
        self.protocol: Mapping[str, Any] = protocol

    @classmethod
    def load(cls, folder: Path) -> "SceneJudge":
        """The judge in a folder; ValueError: a file is missing or broken."""
        try:
            config = plain_json.read(folder / CONFIG)
            concepts, styles = config["concepts"], config["styles"]
            network = SceneNetwork(len(concepts), len(styles), config["width"])
            tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
            network.load_state_dict(tensors)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds no judge of scenes: {' '.join(str(error).split())[:160]}") from None
        known = {"weights": sha256(folder / WEIGHTS), "accuracy": config.get("accuracy", {})}
        return cls(network, concepts, styles, known)

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write the judge, its weights in float16, and facts about it as plain JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"width": self.network.width, "styles": self.styles, "concepts": self.concepts, **facts}
        tensors = {
            name: tensor.half().contiguous() if tensor.is_floating_point() else tensor
            for name, tensor in self.network.state_dict().items()
        }
        save_file(tensors, folder / WEIGHTS)
        replace(folder / CONFIG, json.dumps(config) + "\n")

    def read(self, images: Float[Tensor, "b 3 64 64"]) -> list[Reading]:
        """What is in images in [-1, 1]."""
        with torch.inference_mode():
            cells, styles = self.network(images)
        both = zip(cells.softmax(1).numpy(), styles.softmax(1).numpy(), strict=True)
        return [Reading(*reading) for reading in both]

    def look(self, image: Image.Image) -> Reading:
        """What is in a picture of any size."""
        square = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(square, np.float32).copy()) / 127.5 - 1
        return self.read(pixels.permute(2, 0, 1)[None])[0]


def seen(reading: Reading, count: int) -> list[int]:
    """The numbers of the `count` concepts that fill most of a picture, the largest first."""
    return np.argsort(-reading.cells[:-1].sum((1, 2)))[:count].tolist()


def centre(reading: Reading, concept: int) -> tuple[float, float]:
    """Where a concept is: the mean (x, y) of its cells, in fractions of the side."""
    mass, middle = reading.cells[concept], (np.arange(CELLS) + 0.5) / CELLS
    return float((mass.sum(0) * middle).sum() / mass.sum()), float((mass.sum(1) * middle).sum() / mass.sum())


def share_inside(reading: Reading, concept: int, box: Sequence[float]) -> float:
    """Which share of a concept's cells lies in a box (left, top, right, bottom)."""
    mass, middle = reading.cells[concept], (np.arange(CELLS) + 0.5) / CELLS
    left, top, right, bottom = box
    inside = np.outer((middle >= top) & (middle <= bottom), (middle >= left) & (middle <= right))
    return float((mass * inside).sum() / mass.sum())
