"""Checkpoint files that are whole or not there."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ediffi.io import pickles


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its place, onto the disk, and then renames it into it.

    Lightning's own way collects it in memory and then in the system's folder for temporary files; from there to another
    file system it is copied, which a kill or a full disk can cut in the middle, over the last good checkpoint. Places
    that are no local path (s3://...) are still written by Lightning: object stores replace whole objects.
    """

    def __init__(self) -> None:
        self.lightning = TorchCheckpointIO()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save; what stood at `path` stays until all of the new one is on the disk.

        Raises:
            OSError: it cannot be written, with the path; nothing is left of the attempt.
        """
        if "://" in str(path):
            self.lightning.save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        beside = place.with_name(place.name + ".tmp")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, place)
        except BaseException as error:
            with suppress(OSError):
                beside.unlink()
            cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch's, over the system's own
            if isinstance(cause, OSError):
                raise OSError(cause.errno, cause.strerror, str(place)) from error
            raise
        folder = os.open(place.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load tensors and plain values, and nothing else, onto the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is broken, or holds code.
        """
        if "://" not in str(path):
            content: dict[str, Any] = pickles.read(Path(path))
            return content
        return self.lightning.load_checkpoint(path, map_location or "cpu", weights_only=True)  # type: ignore[arg-type]

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove the file or folder."""
        self.lightning.remove_checkpoint(path)
