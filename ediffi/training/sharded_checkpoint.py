"""Checkpoints of sharded weights: each process writes its own part, while the training goes on.

A checkpoint is a file (`last.ckpt`), as always, and beside it a folder of `torch.distributed.checkpoint` with the
tensors that are sharded. In the file, meta tensors stand for these, and it names the folder with the SHA-256 of
each file there. It is written when all processes have written their parts, and renamed into place, so a kill at any
moment leaves the last whole checkpoint. Several checkpoints of one step share a folder, and one that no file names is
removed.
"""

import shutil
import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

from ediffi.io import files, pickles
from ediffi.training.shard_reader import DIGESTS, METADATA, SHARDS, own_errors

SUFFIX = ".shards"


class ShardedCheckpoints:
    """Saves and removes the checkpoints of a run under FSDP2, in place of the strategy's own methods.

    At most one is being written: the next one waits for it. A checkpoint that is to be removed stays until the one
    that was saved before it is whole.

    Args:
        strategy: of the run, in its processes.
        checkpoint_io: writes a file beside its place and renames it.
    """

    def __init__(self, strategy: ModelParallelStrategy, checkpoint_io: CheckpointIO) -> None:
        self._strategy, self._io = strategy, checkpoint_io
        self._group = cpu_group()  # a thread may not use the group of the training
        self._writer: Writer | None = None
        self._saving: Future[Any] | None = None
        self._removed: list[Path] = []

    def save(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Copy the tensors to memory of the CPU, and return while they are written. OSError: the last one was not."""
        place = Path(self._strategy.broadcast(filepath))
        sharded = {keystr(path): leaf for path, leaf in tree_flatten_with_path(checkpoint)[0] if _is_sharded(leaf)}
        content = tree_map(_unsharded, checkpoint)
        step = checkpoint["global_step"]
        if self._writer is None or not self._writer.has(place.parent, step, sharded):
            self.wait(place.parent)
            name = self._strategy.broadcast(f"step-{step}-{uuid.uuid4().hex[:8]}{SUFFIX}")
            self._writer = Writer(place.parent / name, step, sharded, self._io)
            saving = async_save(sharded, storage_writer=self._writer, process_group=self._group)
            assert isinstance(saving, Future)
            self._saving = saving
        if self._strategy.is_global_zero:
            self._writer.name(place, content)
        module = self._strategy.lightning_module
        if module is not None and module.trainer.state.finished:  # nothing comes that would wait for it
            self.wait()

    def remove(self, filepath: str | Path) -> None:
        """Remove a checkpoint when the one that is being written is whole."""
        self._removed.append(Path(filepath))

    def wait(self, folder: Path | None = None) -> None:
        """Return when all is written that was to be saved, here and in `folder` clean up; OSError if it was not."""
        saving, self._saving = self._saving, None
        if saving is not None:
            with own_errors():
                saving.result()
        folders = {path.parent for path in self._removed} | ({self._writer.folder.parent} if self._writer else set())
        removed, self._removed = self._removed, []
        if self._strategy.is_global_zero:
            for path in removed:
                path.unlink(missing_ok=True)
            for one in folders | ({folder} if folder else set()):
                sweep(one)


class Writer(FileSystemWriter):
    """Writes the tensors of a step, and when all processes have, the checkpoints of that step.

    Args:
        folder: to write into; new.
        step: of the run.
        tensors: that are written, by name.
        checkpoint_io: writes the checkpoints.
    """

    def __init__(self, folder: Path, step: int, tensors: Mapping[str, Tensor], checkpoint_io: CheckpointIO) -> None:
        super().__init__(folder)
        self.folder, self._step, self._tensors, self._io = folder, step, set(tensors), checkpoint_io
        self._lock, self._named = threading.Lock(), list[tuple[Path, dict[str, Any]]]()
        self._digests: dict[str, str] = {}  # of a folder that is whole

    def has(self, folder: Path, step: int, tensors: Mapping[str, Tensor]) -> bool:
        """Whether it writes these tensors of a step, into a folder of this one."""
        return (self.folder.parent, self._step) == (folder, step) and tensors.keys() <= self._tensors

    def name(self, place: Path, content: dict[str, Any]) -> None:
        """Write a checkpoint with these tensors when they are on the disk."""
        with self._lock:
            if self._digests:
                self._commit(place, content)
            else:
                self._named.append((place, content))

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> "torch.futures.Future[list[WriteResult]]":
        """The files of this process, each with its hash in the place of another result."""
        written = super().write_data(plan, planner).value()
        names = {result.storage_data.relative_path for result in written}
        hashes = [WriteResult(MetadataIndex(DIGESTS), 0, (name, files.sha256(self.folder / name))) for name in names]
        done: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        done.set_result([*written, *hashes])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The first process writes the metadata, then the checkpoints, since all have written their files."""
        found = [result for of_process in results for result in of_process]
        digests = dict(result.storage_data for result in found if result.index.fqn == DIGESTS)
        super().finish(metadata, [[result for result in found if result.index.fqn != DIGESTS]])
        files.synchronise(self.folder)
        with self._lock:
            self._digests = {**digests, METADATA: files.sha256(self.folder / METADATA)}
            for place, content in self._named:
                self._commit(place, content)

    def _commit(self, place: Path, content: dict[str, Any]) -> None:
        self._io.save_checkpoint({**content, SHARDS: {"folder": self.folder.name, DIGESTS: self._digests}}, place)


def cpu_group() -> dist.ProcessGroup:
    """A group of all processes that exchanges objects over gloo; every process makes it."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def finish_saving(strategy: Strategy) -> None:
    """Wait until the checkpoints that a strategy is writing are whole; OSError if one could not be written."""
    saver = getattr(strategy.save_checkpoint, "__self__", None)
    if isinstance(saver, ShardedCheckpoints):
        saver.wait()


def sweep(folder: Path) -> None:
    """Remove the shards that no checkpoint in a folder names: of removed ones, and of runs that were killed."""
    found, named = [path for path in folder.glob(f"*{SUFFIX}") if path.is_dir()], set()
    for path in folder.iterdir() if found else ():
        if path.is_file() and path.suffix != ".tmp":
            try:
                content = pickles.read(path)
            except ValueError:
                if path.suffix == ".ckpt":
                    return  # which shards it names is not known
                continue
            if isinstance(content, dict) and isinstance(content.get(SHARDS), dict):
                named.add(content[SHARDS].get("folder"))
    for path in found:
        if path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def _is_sharded(leaf: Any) -> bool:
    return isinstance(leaf, DTensor)


def _unsharded(leaf: Any) -> Any:
    """A meta tensor for a sharded tensor, and a copy on the CPU of another one."""
    if isinstance(leaf, DTensor):
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf
