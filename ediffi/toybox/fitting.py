"""The training loop that Toybox's small helpers share, and how a trained folder takes its place."""

import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Budget:
    """How long to train.

    Attributes:
        steps: optimiser steps.
        batch_size: captions (and pictures) a step.
        learning_rate: peak of the schedule: linear warm-up over a tenth of the steps, then a cosine to 0.
    """

    steps: int
    batch_size: int
    learning_rate: float

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ValueError(f"steps >= 1, batch_size >= 2 and learning_rate > 0 are allowed, not {self}")


def device() -> str:
    """Where to train: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fit(model: nn.Module, loss_of: Callable[[], Tensor], budget: Budget, label: str, bf16: bool) -> dict[str, Any]:
    """Train `model` in place on the losses that `loss_of` draws: AdamW, warm-up and cosine decay.

    Returns:
        How it went: steps, samples, minutes, the mean loss of the last 50 steps, and on what kind of machine.

    Raises:
        ValueError: a loss is not finite.
    """
    from tqdm import tqdm

    optimiser = torch.optim.AdamW(
        model.parameters(), budget.learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    warm_up = max(1, budget.steps // 10)

    def rate(step: int) -> float:
        return min((step + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * step / budget.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    start, losses = time.monotonic(), []
    for _ in (bar := tqdm(range(budget.steps), desc=label, unit="step", mininterval=1)):
        with torch.autocast(device(), torch.bfloat16, enabled=bf16):
            loss = loss_of()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise ValueError(f"{label}: the loss of step {len(losses)} is {losses[-1]}; try a smaller learning rate")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    return {
        "steps": budget.steps,
        "samples": budget.steps * budget.batch_size,
        "minutes": round((time.monotonic() - start) / 60, 2),
        "loss": round(float(np.mean(losses[-50:])), 4),
        "machine": f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}, {device()}",
        "torch": torch.__version__,
    }


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new empty folder beside `folder`; once filled without an error it takes its place, else it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        yield fresh
        for path in fresh.iterdir():  # safetensors writes files that only their owner may read
            path.chmod(0o644)
        fresh.chmod(0o755)
        if folder.exists():
            old = fresh.with_suffix(".old")
            folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write how a training went to `training.json`."""
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
