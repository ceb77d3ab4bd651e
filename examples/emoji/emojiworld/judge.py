"""Train the judge of the suite: a small network that reads scenes, from scenes whose truth is known."""

import io
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ediffi.data.shards import reject_for_embedding
from ediffi.data.tar import RawSample, Tally, each_shard, read_samples
from ediffi.evaluation.datasets.emoji.scene_judge import CELLS, SIZE, SceneJudge, SceneNetwork
from ediffi.io import urls
from ediffi.io.devices import computes_bfloat16

BATCH_SIZE: Final = 128
PEAK_LR: Final = 3e-3
NOTHING_WEIGHT: Final = 0.3  # of a cell without a drawing: there are more of them
COARSEST: Final = 16  # side to which a picture is made blurred, so that the judge can read what a small stage paints

BLURRED: Final = (32, 16)  # sides at which the accuracy on blurred pictures is told

log = logging.getLogger(__name__)


class Scenes(NamedTuple):
    """Pictures and their truth: `cells` is the number of the concept in each cell, or that of nothing."""

    images: Tensor  # uint8 [n, 3, 64, 64]
    cells: Tensor  # int64 [n, 8, 8]
    styles: Tensor  # int64 [n]
    things: list[list[int]]  # numbers of concepts


def train_judge(
    output: Path, train: Path, test: Path, epochs: int = 8, width: int = 64, seed: int = 0, every: int = 50
) -> dict[str, float]:
    """Train on the scenes of one folder of shards, test on another's, and write the judge; returns its accuracy.

    ValueError: the test has a concept or style that training has not, a picture is not 64 a side, or a number is too
    small.
    """
    for name, value, least in ("epochs", epochs, 1), ("width", width, 2):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    concepts, styles, scenes = read_scenes(train)
    _, _, held_out = read_scenes(test, concepts, styles)
    torch.manual_seed(seed)
    network = SceneNetwork(len(concepts), len(styles), width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_LR, weight_decay=0.02)
    steps = math.ceil(len(scenes.styles) / BATCH_SIZE) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.15)
    fast = computes_bfloat16(torch.device("cpu"))
    weight = torch.ones(len(concepts) + 1)
    weight[-1] = NOTHING_WEIGHT
    with tqdm(total=steps, unit="step", desc="judge", mininterval=5) as progress:
        for epoch in range(epochs):
            for rows in torch.randperm(len(scenes.styles)).split(BATCH_SIZE):
                images = spoilt(scenes.images[rows].float() / 127.5 - 1)
                with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                    cells, style = network(images.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(cells.float(), scenes.cells[rows], weight)
                loss = loss + 0.5 * F.cross_entropy(style.float(), scenes.styles[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update()
                if progress.n % every == 0:
                    progress.set_postfix(epoch=epoch, loss=f"{loss.item():.3f}")
            judge = SceneJudge(network, concepts, styles, {})
            accuracy = measure(judge, held_out)
            log.info("epoch %d of %d: %s", epoch + 1, epochs, accuracy)
            judge.save(output, {"accuracy": accuracy, "scenes": len(scenes.styles), "epochs": epoch + 1, "seed": seed})
            network.train()
    for side in BLURRED:
        accuracy |= {f"{name}, blurred to {side}": value for name, value in measure(judge, held_out, side).items()}
    judge.save(output, {"accuracy": accuracy, "scenes": len(scenes.styles), "epochs": epochs, "seed": seed})
    return accuracy


def measure(judge: SceneJudge, scenes: Scenes, blurred: int | None = None) -> dict[str, float]:
    """The share of pictures in which the judge sees exactly the things, by their number, and the right style."""
    right: dict[str, list[bool]] = {}
    order = zip(scenes.images.split(BATCH_SIZE), range(0, len(scenes.styles), BATCH_SIZE), strict=True)
    for images, first in order:
        pixels = images.float() / 127.5 - 1
        for row, reading in enumerate(judge.read(pixels if blurred is None else _blurred(pixels, blurred)), first):
            things = scenes.things[row]
            largest = np.argsort(-reading.cells[:-1].sum((1, 2)))[: len(things)]
            right.setdefault(f"concepts of {len(things)}", []).append(set(largest.tolist()) == set(things))
            right.setdefault("style", []).append(int(reading.styles.argmax()) == int(scenes.styles[row]))
    return {name: round(float(np.mean(values)), 4) for name, values in sorted(right.items())}


def read_scenes(
    folder: Path, concepts: Sequence[str] = (), styles: Sequence[str] = ()
) -> tuple[list[str], list[str], Scenes]:
    """The scenes in a folder of shards; the concepts and styles are those that occur, if none are given. ValueError:
    they are no scenes, or others than those."""
    shards = urls.expand([str(folder)])
    raws = [raw for shard in each_shard(_members, shards, f"reading {folder.name}") for raw in shard]
    try:
        return _scenes(raws, concepts, styles)
    except (KeyError, TypeError, RuntimeError) as error:
        why = f"unknown or missing: {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{folder} cannot be read by this judge ({why}); it needs scenes of --size {SIZE}") from None


def _scenes(
    raws: Sequence[RawSample], concepts: Sequence[str], styles: Sequence[str]
) -> tuple[list[str], list[str], Scenes]:
    facts = [json.loads(raw["json"]) for raw in raws]
    known = list(concepts) or sorted({thing["hexcode"] for one in facts for thing in one["things"]})
    artists = list(styles) or sorted({one["style"] for one in facts})
    number, artist = ({name: index for index, name in enumerate(names)} for names in (known, artists))
    images = torch.empty(len(raws), 3, SIZE, SIZE, dtype=torch.uint8)
    cells = torch.full((len(raws), CELLS, CELLS), len(known))
    for row, (raw, one) in enumerate(zip(raws, facts, strict=True)):
        images[row] = _pixels(raw["png"])
        for thing in one["things"]:
            cells[row][_covered(thing["box"])] = number[thing["hexcode"]]
    things = [[number[thing["hexcode"]] for thing in one["things"]] for one in facts]
    return known, artists, Scenes(images, cells, torch.tensor([artist[one["style"]] for one in facts]), things)


def spoilt(images: Tensor) -> Tensor:
    """Training images, every second one as a half-trained model may paint it: blurred, or with noise."""
    images = images.clone()
    half = len(images) // 2
    side = int(torch.randint(COARSEST, SIZE, ()))
    images[: half // 2] = _blurred(images[: half // 2], side)
    images[half // 2 : half] += torch.rand(half - half // 2, 1, 1, 1) * 0.3 * torch.randn_like(images[half // 2 : half])
    return images * (1 + 0.1 * torch.randn(len(images), 3, 1, 1)) + 0.1 * torch.randn(len(images), 3, 1, 1)


def _blurred(images: Tensor, side: int) -> Tensor:
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, (SIZE, SIZE), mode="bicubic")


def _covered(box: Sequence[float]) -> Tensor:
    """The cells whose middle is in a box; at least the one in its own middle."""
    middle = (torch.arange(CELLS) + 0.5) / CELLS
    left, top, right, bottom = box
    cells = ((middle >= top) & (middle <= bottom))[:, None] & ((middle >= left) & (middle <= right))[None]
    cells[int(CELLS * (top + bottom) / 2), int(CELLS * (left + right) / 2)] = True
    return cells


def _pixels(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def _members(shard: str) -> list[dict[str, bytes]]:
    return list(read_samples(shard, Tally(), reject_for_embedding))
