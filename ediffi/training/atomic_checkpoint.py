"""Checkpoints as files that are complete or absent."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ediffi.io import files, pickles


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its place, waits for the disk, and renames it into place.

    Lightning writes into memory and the system's temporary directory, and copies from there: a kill or a full disk in
    between would cut the last good checkpoint. Remote paths (s3://...) are left to Lightning; object stores replace
    whole objects.
    """

    def __init__(self) -> None:
        self.lightning = TorchCheckpointIO()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save a checkpoint; the file at `path` stays as it is until the new one is on the disk.

        Raises:
            OSError: it cannot be written; no part of it is left.
        """
        if "://" in str(path):
            self.lightning.save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with files.replacing(place) as beside, beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch hides the system's error
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(place)) from error
            raise
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # or the rename itself may be lost with the power
        finally:
            os.close(folder)

    def load_checkpoint(
        self, path: str | Path, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load tensors and plain values onto the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken or contains code.
        """
        if "://" not in str(path):
            content: dict[str, Any] = pickles.read(Path(path))
            return content
        return self.lightning.load_checkpoint(path, map_location or "cpu", weights_only=True)  # type: ignore[arg-type]

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file or folder."""
        self.lightning.remove_checkpoint(path)
