"""What can be wrong with a training run: its checkpoint, and the data below it."""

import copy
import json
import logging
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from ediffi.data.index import write_index
from ediffi.data.module import ShardData
from ediffi.data.shards import Sample, write_shards
from ediffi.registry import denoisers
from ediffi.training.callbacks.run_directory import RunDirectory
from ediffi.training.lightning_module import DiffusionStage
from tests.faults.harness import FAMILIES, Attempt, Family, family
from tests.faults.mutations import ODD, damage, places

try:
    from ediffi.training.callbacks.ema import EMA as AVERAGE
except ImportError:  # version 925d412
    from lightning.pytorch.callbacks import EMAWeightAveraging as AVERAGE

WIDTH, SIZE, HALF, STEPS = 8, 8, 3, 5
ENCODERS = {"t5": {"name": "t5", "width": WIDTH}}


def samples(seed: int, count: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    embedding = torch.Generator().manual_seed(seed)
    return [
        Sample(
            f"{number:06d}",
            Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)),
            f"caption {number}",
            {"t5.tokens": torch.randn(3, WIDTH, generator=embedding).bfloat16()},
            {},
        )
        for number in range(count)
    ]


@cache
def shards(seed: int = 0) -> Path:
    """Three shards of four samples; not to be written to."""
    folder = Path(tempfile.mkdtemp(prefix="faults-shards-"))
    write_shards(folder, iter(samples(seed, 12)), 4, {"encoders": ENCODERS, "dtype": "bfloat16"})
    return folder


def train(
    run: Path, data: Path, steps: int, resume: Path | None = None, every: int | None = None
) -> dict[str, torch.Tensor]:
    """Train a tiny stage, saved at its end or `every` so many steps; all tensors of its last checkpoint."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    network = {"tokens": {"t5": WIDTH}, "pooled": {}, "head_channels": 8, "norm_groups": 4, "context_width": 8}
    stage = DiffusionStage(
        denoisers.create("unet_toybox", channels=8, **network),
        dropout={"t5": 0.1},
        optimizer=lambda weights: torch.optim.AdamW(weights, lr=1e-3),
    )
    place = run / "checkpoints"
    saver = ModelCheckpoint(place, save_last=True, save_top_k=0, every_n_train_steps=every or steps)
    trainer = L.Trainer(
        default_root_dir=run, max_steps=steps, callbacks=[RunDirectory(), AVERAGE(decay=0.9), saver], logger=False,
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(stage, ShardData(data, data, SIZE, batch_size=2), ckpt_path=resume)
    return tensors(torch.load(place / "last.ckpt", weights_only=True))


def tensors(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    found = {f"average {key}": value for key, value in content["state_dict"].items()}
    found |= {f"weights {key}": value for key, value in content["current_model_state"].items()}
    for index, moments in content["optimizer_states"][0]["state"].items():
        found |= {f"{index} {key}": value for key, value in moments.items()}
    return found


@cache
def half_done() -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint of half of a run, and what the whole run ends with."""
    folder = Path(tempfile.mkdtemp(prefix="faults-run-"))
    train(folder / "half", shards(), HALF)
    path = folder / "half" / "checkpoints" / "last.ckpt"
    return path, train(folder / "whole", shards(), STEPS, path)


def resumed(run: Path, path: Path, data: Path) -> Attempt:
    expected = half_done()[1]

    def attempt() -> str | None:
        found = train(run, data, STEPS, path)
        same = found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
        return None if same else "other weights"

    return attempt


def copied(scratch: Path) -> Path:
    return Path(shutil.copy(half_done()[0], scratch / "last.ckpt"))


def _damaged(kind: str) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        path = copied(scratch)
        damage(rng, path, kind)
        return resumed(scratch / "run", path, shards())

    return prepare


for _kind in ("bits", "cut", "zeros"):
    FAMILIES[f"checkpoint {_kind}"] = _damaged(_kind)


def _saved_again(change: Callable[[random.Random, dict[str, Any]], None]) -> Family:
    """A change of the content, written by torch.save: the bytes are sound."""

    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        path = copied(scratch)
        content = torch.load(path, weights_only=True)
        change(rng, content)
        torch.save(content, path)
        return resumed(scratch / "run", path, shards())

    return prepare


def _at(content: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def _values(rng: random.Random, content: dict[str, Any]) -> None:
    plain = [path for path in places(content) if not isinstance(_at(content, path), torch.Tensor | dict | list)]
    *path, last = rng.choice([path for path in plain if "pytorch-lightning_version" not in path])
    value = _at(content, tuple(path))[last]
    near = [value + 1, value * 1000 + 1] if isinstance(value, int | float) and not isinstance(value, bool) else []
    _at(content, tuple(path))[last] = rng.choice([*near, *(odd for odd in ODD if type(odd) is not type(value))])


def _entries(rng: random.Random, content: dict[str, Any]) -> None:
    known = [key for key in content if not key.startswith("ediffi_")]
    *path, last = rng.choice([path for path in places(content) if len(path) < 4 and path[0] in known])
    del _at(content, tuple(path))[last]


def _tensors(rng: random.Random, content: dict[str, Any]) -> None:
    key = rng.choice(sorted(found := tensors(content)))
    place = tuple(rng.randrange(size) for size in found[key].shape)
    found[key][place] = rng.choice([float("nan"), float("inf"), -float("inf")])


FAMILIES["checkpoint values, saved again"] = _saved_again(_values)
FAMILIES["checkpoint entries, saved again"] = _saved_again(_entries)
FAMILIES["checkpoint not finite, saved again"] = _saved_again(_tensors)


@family
def checkpoint_that_names_code(rng: random.Random, scratch: Path) -> Attempt:
    path = copied(scratch)
    content = torch.load(path, weights_only=True)
    canary = str(scratch / "canary")

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return rng.choice([(open, (canary, "w")), (__import__("os").system, (f"touch {canary}",))])

    target = rng.choice([content, content["callbacks"], content["state_dict"], content["loops"]])
    target["evil"] = Evil()
    torch.save(content, path)
    return resumed(scratch / "run", path, shards())


@family
def data_exchanged_under_a_run(rng: random.Random, scratch: Path) -> Attempt:
    """The checkpoint names the folder that is exchanged."""
    folder, run = scratch / "shards", scratch / "run"
    shutil.copytree(shards(), folder)
    train(run, folder, HALF)
    path = Path(shutil.copy(run / "checkpoints" / "last.ckpt", scratch / "last.ckpt"))
    index = json.loads((folder / "index.json").read_text())
    kind = rng.choice(["other", "order", "gone", "more"])
    if kind == "other":
        shutil.rmtree(folder)
        shutil.copytree(shards(rng.randrange(1, 4)), folder)
    else:
        before = copy.deepcopy(index["shards"])
        while index["shards"] == before:
            rng.shuffle(index["shards"])
        del index["shards"][: kind == "gone"]
        index["shards"] += index["shards"][: kind == "more"]
        write_index(folder / "index.json", index.pop("shards"), index)
    return resumed(run, path, folder)
