"""A cascade as a folder: `config.json` with registry names and plain arguments, safetensors beside it.

Nothing in it names Python code, and nothing is unpickled: a folder from elsewhere can only choose among the registered
parts. Every weights file is named with its sha256, and so are the files of the encoders. The folder may be on the Hub:
then what is asked for of it comes into the Hub's cache, and nothing else.
"""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ediffi.diffusion.noise import NoiseInterval, contains
from ediffi.diffusion.streaming import load_weights
from ediffi.hub import finding, listing
from ediffi.hub import models as known
from ediffi.pipeline.manifest import (
    Part,
    Residency,
    TrainedStage,
    listed,
    load_stage,
    read_stage,
    save_stage,
    trained_again,
    verified,
)
from ediffi.pipeline.stage import Stage
from ediffi.registry import encoders
from ediffi.registry.types import Encoder

FORMAT = "ediffi-cascade-2"
SHIPPED = known.SHIPPED
CONFIG, PICKLES, find = finding.CONFIG, finding.PICKLES, finding.find


class Contents(NamedTuple):
    """What a folder holds, built: the arguments of `Cascade`."""

    name: str
    encoders: dict[str, Encoder]
    stages: list[Stage]
    source: Path


def models() -> list[str]:
    """Names of the cascades that ship with the package, and of those in lists (see `ediffi.hub.models`)."""
    return known.names()


def locate(model: str | Path, revision: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a model, complete; one of the Hub is fetched. Arguments and errors as `find`."""
    found = find(model, revision, local_files_only)
    config = read_config(found.folder)
    with _whole(found.folder):
        found.fetch(lambda: [*listing.weights(config["stages"]), *listing.encoder_files(config)])
    return found.folder


def load(
    model: str | Path,
    device: str | torch.device = "cpu",
    residency: Residency = "resident",
    *,
    revision: str | None = None,
    stages: Sequence[str] | None = None,
    dtype: torch.dtype | None = None,
    local_files_only: bool = False,
) -> Contents:
    """Read a cascade, from a folder or from the Hub; weights as float32.

    Args:
        model: see `find`.
        device: where its networks stand.
        residency: of the experts.
        revision: see `find`.
        stages: the first stages, by name; the others are not fetched. All of them by default.
        dtype: see `load_stage`.
        local_files_only: see `find`.

    Raises:
        FileNotFoundError: the model or a file of it is missing.
        ValueError: a file is broken, does not have the hash it should, or names an unknown part, or the experts of a
            stage do not share all noise out.
        OSError: the Hub cannot be reached, or refuses.
    """
    found = find(model, revision, local_files_only)
    folder, config = found.folder, read_config(found.folder)
    with _whole(folder):
        entries = listing.chosen(config, stages)
        listing.check_registered(config, entries, str(found.place or folder))
        found.fetch(lambda: [*listing.weights(entries), *listing.encoder_files(config)])
        built = [load_stage(folder, entry, device, residency, dtype) for entry in entries]
        listing.check_files(folder, config)
        parts = {source: Part(**entry) for source, entry in config["encoders"].items()}
        name = str(config["name"])
    return Contents(
        name, {source: _load_encoder(folder, part) for source, part in parts.items()}, built, folder.absolute()
    )


def find_stage(model: str | Path, stage: str | None = None) -> tuple[Path, dict[str, Any]]:
    """The folder of a model and its entry of a stage, the only one by default; of the Hub, only that stage is fetched.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it has no such stage, or several to choose from.
    """
    found = find(model)
    with _whole(found.folder):
        entries = {entry["name"]: entry for entry in read_config(found.folder)["stages"]}
        if stage is None and len(entries) == 1:
            stage = next(iter(entries))
        if stage not in entries:
            raise ValueError(
                f"{found.place or found.folder} has no stage {stage!r}; its stages are {', '.join(entries)}"
            )
        found.fetch(lambda: listing.weights([entries[stage]]))
    return found.folder, entries[stage]


def trained_stage(model: str | Path, stage: str | None = None) -> TrainedStage:
    """A stage of a folder, to be written into another; arguments as `find_stage`."""
    return read_stage(*find_stage(model, stage))


def load_expert(model: str | Path, stage: str, region: NoiseInterval, denoiser: nn.Module) -> NoiseInterval:
    """Load the weights of the expert that owns all of `region` into `denoiser`, and return what it owns.

    Raises:
        FileNotFoundError: the folder or the expert's file is missing.
        ValueError: there is no such stage or expert, or the file is broken or of another network.
    """
    folder, entry = find_stage(model, stage)
    rows = [row for row in listed(entry) if contains(row.expert.region, region)]
    if not rows:
        raise ValueError(f"no expert of stage {stage!r} of {folder} owns all of {region}")
    load_weights(denoiser, verified(folder, rows[0]))
    return rows[0].expert.region


def save(
    folder: Path,
    name: str,
    encoder_parts: Mapping[str, Part],
    encoder_files: Path | None,
    stages: Sequence[TrainedStage],
) -> Path:
    """Write a cascade beside `folder`, then rename it into place; weights in bfloat16.

    Args:
        folder: must not exist.
        name: of the model.
        encoder_parts: encoders by source; an argument `path` is relative to the folder.
        encoder_files: copied to `encoders/` in the folder; None if the encoders bring their own.
        stages: base stage first.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: the experts of a stage do not share all noise out.
        OSError: a file cannot be written; nothing is left behind.
    """

    def put_encoders(beside: Path) -> None:
        if encoder_files is not None:
            shutil.copytree(encoder_files, beside / "encoders")

    return _write(folder, name, encoder_parts, put_encoders, stages)


def save_again(source: Path, folder: Path, stages: Sequence[Stage]) -> Path:
    """Write a loaded cascade beside `folder`, then rename it into place.

    The files of encoders, and of experts whose weights are still those that were loaded, are copied byte for byte;
    weights that were changed since are written in bfloat16.

    Args:
        source: the folder that it was loaded from.
        folder: must not exist.
        stages: those that were loaded.

    Raises:
        FileExistsError: `folder` exists.
        ValueError: a file of the source is not the one any more that was loaded.
        OSError: a file cannot be read or written; nothing is left behind.
    """
    config = read_config(source)
    entries = {entry["name"]: entry for entry in config["stages"]}
    parts = {name: Part(**entry) for name, entry in config["encoders"].items()}
    listing.check_files(source, config)

    def put_encoders(beside: Path) -> None:
        for name in listing.find_encoder_files(source, parts):
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, beside / name)

    again = [trained_again(source, entries[stage.name], stage) for stage in stages]
    return _write(folder, config["name"], parts, put_encoders, again)


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's `config.json`.

    Raises:
        ValueError: it is not JSON, or of another format.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else None
        raise ValueError(f"{path} has the format {found!r}; this version reads {FORMAT!r}{_newer(found)}")
    return config


def _load_encoder(folder: Path, part: Part) -> Encoder:
    arguments = dict(part.arguments)
    if (folder / str(arguments.get("path"))).is_dir():
        arguments["path"] = str(folder / arguments["path"])
    return encoders.create(part.name, **arguments)


def _write(
    folder: Path,
    name: str,
    encoder_parts: Mapping[str, Part],
    put_encoders: Callable[[Path], None],
    stages: Sequence[TrainedStage],
) -> Path:
    """See `save`; `put_encoders` is called with the folder beside."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        entries = [save_stage(Path(beside), stage) for stage in stages]
        put_encoders(Path(beside))
        written = {source: dataclasses.asdict(part) for source, part in encoder_parts.items()}
        config = {
            "format": FORMAT,
            "name": name,
            "encoders": written,
            "stages": entries,
            "files": listing.find_encoder_files(Path(beside), encoder_parts),
            "packages": listing.packages(entries, written),
        }
        (Path(beside) / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        Path(beside).chmod(0o755)
        os.rename(beside, folder)
        Path(beside).mkdir()
    return folder


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """What a config that lacks something, or has something else in its place, raises becomes one sentence."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG} is not a complete {FORMAT}: {error}") from None


def _newer(found: Any) -> str:
    """What to do about the format of a newer version; of another library's config, what it is not."""
    stem, _, number = FORMAT.rpartition("-")
    other = re.fullmatch(rf"{stem}-(\d+)", found) if isinstance(found, str) else None
    if other is None:
        return ", so it is no model of ediffi"
    return ", so it needs a newer one: pip install --upgrade ediffi" if int(other[1]) > int(number) else ""
