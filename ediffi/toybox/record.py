"""Record how the stages of a cascade were trained: from the TensorBoard events of their runs, beside the weights."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from ediffi.io import plain_yaml


def record(runs: list[Path], output: Path) -> dict[str, Any]:
    """Write `training.json` and `training.png` (validation loss over samples) of finished training runs.

    By stage: steps, samples, minutes, seed, and the validation curve as [samples, loss] pairs. FileNotFoundError: a run
    directory has no `config.yaml` or no TensorBoard events.
    """
    from matplotlib.figure import Figure

    stages = {run.name: _stage(run) for run in runs}
    content = {"machine": f"{os.cpu_count()} cores, {platform.machine()}", "stages": stages}
    output.mkdir(parents=True, exist_ok=True)
    (output / "training.json").write_text(json.dumps(content, indent=1) + "\n")
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, stage in stages.items():
        samples, losses = zip(*stage["validation_loss"], strict=True)
        axes.plot(samples, losses, marker="o", label=f"{name}, {stage['samples'] / 1e3:.0f} k samples")
    axes.set(xlabel="samples seen", ylabel="validation loss, EMA weights", yscale="log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(output / "training.png", dpi=120)
    return content


def _stage(run: Path) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(run.glob("events.out.tfevents*"), key=lambda path: path.stat().st_mtime)
    if not files or not (run / "config.yaml").is_file():
        raise FileNotFoundError(f"{run} is not a training run: it needs config.yaml and TensorBoard events")
    config = plain_yaml.load((run / "config.yaml").read_text(encoding="utf-8"))
    batch_size, losses, seconds = config["data"]["batch_size"], {}, 0.0
    for path in files:  # a run that was resumed has several
        events = EventAccumulator(str(path)).Reload()
        scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
        if steps := scalars.get("train/loss"):
            seconds += steps[-1].wall_time - steps[0].wall_time
        for event in scalars.get("val/loss", []):
            losses[event.step + 1] = event.value
    return {
        "steps": max(losses),
        "samples": max(losses) * batch_size,
        "minutes": round(seconds / 60, 1),
        "seed": config["seed_everything"],
        "validation_loss": [[step * batch_size, round(loss, 4)] for step, loss in sorted(losses.items())],
    }
