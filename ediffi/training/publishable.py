"""What is published of a folder: a model folder, the stage that `ediffi grow` left, or the training run of a stage."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from ediffi.hub import listing
from ediffi.pipeline import folder
from ediffi.pipeline.manifest import Part, TrainedStage
from ediffi.pipeline.stage import Sampling
from ediffi.training.growth.compose import read_run

LOCK = "run.lock"
"""What a training holds while it is at work."""
LARGE = 1 << 20
"""Bytes from which on a file that belongs to nothing is asked about; smaller ones are left out and named."""


def model_folder(source: Path, beside: Path) -> Path:
    """The model folder that a folder comes down to; one of a run is written into `beside`.

    Raises:
        FileNotFoundError: there is nothing to publish in it.
        ValueError: it is not tidy: a training is at work or not at its end, or files are half written.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder; a model folder or the folder of a training run is meant")
    grown = source / "stage"
    place = grown if (grown / folder.CONFIG).is_file() and not (source / folder.CONFIG).is_file() else source
    check_whole(place)
    if (place / folder.CONFIG).is_file():
        return place
    if not (place / "config.yaml").is_file():
        raise FileNotFoundError(
            f"{source} is neither a model folder ({folder.CONFIG}) nor the folder of a training run (config.yaml)"
        )
    return folder.save(beside / place.resolve().name, place.resolve().name, {}, None, [finished_stage(place)])


def check_whole(place: Path) -> None:
    """Make sure that nobody is writing into a folder, or was cut while doing so.

    Raises:
        ValueError: somebody is, or was.
    """
    if (place / LOCK).is_file():
        lock = FileLock(place / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"a training is at work in {place}; publish it when it is at its end") from None
        lock.release()
    if halves := sorted(path for path in place.rglob("*.tmp")):
        raise ValueError(f"{halves[0]} is half written: remove it, or let what writes it come to its end")


def finished_stage(run: Path) -> TrainedStage:
    """The stage that a training run made, with the sampling its own grids were painted with; named after the folder.

    A super-resolution stage takes its pictures without noise, as those grids do.

    Raises:
        FileNotFoundError: it has no config or no checkpoint.
        ValueError: it is not at its last step, or something of it is broken.
    """
    expert, part, noise = read_run(run)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    last = config["trainer"].get("max_steps") or -1
    if expert.expert.steps < last:
        raise ValueError(f"{run} is at step {expert.expert.steps} of {last}: the same `ediffi fit` command goes on")
    aug_level = None if config["model"].get("low_res") is None else 0.0
    name, side = run.resolve().name, int(config["data"]["image_size"])
    return TrainedStage(name, side, part, noise, [expert], _sampling(config), aug_level)


def _sampling(config: Mapping[str, Any]) -> Sampling:
    callbacks = [c for c in config["trainer"].get("callbacks") or [] if isinstance(c, dict)]
    painted = [c["init_args"]["sampling"] for c in callbacks if c.get("class_path", "").endswith(".SampleGrid")]
    return Sampling(**painted[0]) if painted else Sampling()


def left_out(place: Path, config: Mapping[str, Any]) -> list[str]:
    """Small files of a model folder that are no part of the model; hidden ones (`.git`) are nobody's business.

    Raises:
        ValueError: one is large, or weights of something else; it must not go, and should not be thought to have gone.
    """
    known = {folder.CONFIG, *listing.weights(config["stages"]), *listing.find_encoder_files(place, _parts(config))}
    files = sorted(path for path in place.rglob("*") if path.is_file())
    shown = [path for path in files if not any(part.startswith(".") for part in path.relative_to(place).parts)]
    foreign = [path for path in shown if path.relative_to(place).as_posix() not in known]
    for path in foreign:
        if path.stat().st_size > LARGE or path.suffix in (*folder.PICKLES, ".safetensors"):
            raise ValueError(f"{path} belongs to no stage and no encoder of the model: move it elsewhere, then publish")
    return [path.relative_to(place).as_posix() for path in foreign]


def _parts(config: Mapping[str, Any]) -> dict[str, Part]:
    return {source: Part(**entry) for source, entry in config["encoders"].items()}
