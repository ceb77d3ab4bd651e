"""Checkpoints of sharded weights: each process writes its own part, while the training goes on.

A checkpoint is a file (`last.ckpt`), as always, and beside it a folder of `torch.distributed.checkpoint` with the
tensors that are sharded. In the file, meta tensors stand for these, and it names the folder with the SHA-256 of
each file there. It is written when all processes have written their parts, and renamed into place, so a kill at any
moment leaves the last whole checkpoint. Several checkpoints of one step share a folder, and one that no file names is
removed.

torch reads its folders by `pickle`, which can run code: `Reader` reads metadata of the classes that torch writes only.
"""

import pickle
import shutil
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.tensor import DTensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map, tree_map_with_path

from ediffi.io import files, pickles

SHARDS = "shards"
"""Entry of a checkpoint that names the folder of its sharded tensors, and the hashes of the files there."""
SUFFIX = ".shards"
METADATA = ".metadata"
DIGESTS = "sha256"
CLASSES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
}  # fmt: skip
"""What torch's metadata of tensors consist of, besides dtypes and the path that they were written to."""
Like = Callable[[Sequence[Any], Tensor], Tensor]
"""From the path of a tensor in a checkpoint, and its meta tensor, to the memory that it is loaded into."""


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
            with _own_errors():
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


class Reader(FileSystemReader):
    """Reads the sharded tensors of a checkpoint; ValueError or FileNotFoundError if a file is not the one written.

    Args:
        place: the checkpoint's file.
        entry: its entry `shards`.
    """

    def __init__(self, place: Path, entry: Mapping[str, Any]) -> None:
        try:
            name, digests = str(entry["folder"]), {str(file): str(digest) for file, digest in entry[DIGESTS].items()}
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"{place} does not say where its shards are") from None
        if outside := [one for one in (name, *digests) if Path(one).name != one]:
            raise ValueError(f"{place} has shards in {outside[0]}, which is not beside it")
        folder = place.parent / name
        super().__init__(folder)
        role = "a file of a checkpoint"
        self._files = {file: files.CheckedFile(folder / file, digest, role) for file, digest in digests.items()}
        if METADATA not in self._files:
            raise ValueError(f"{place} does not list the {METADATA} of its shards")
        with self._files[METADATA].check().open("rb") as file:
            self._metadata = _Metadata(file, place).load()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """As it was read; ValueError if it is not of tensors in the files that are listed."""
        return self._metadata

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """ValueError if these tensors are not all there, in these shapes."""
        known: Any = getattr(self._metadata, "state_dict_metadata", None)
        for name, tensor in tensors.items():
            entry = known.get(name) if isinstance(known, dict) else None
            if not isinstance(entry, TensorStorageMetadata) or entry.size != tensor.shape:
                raise ValueError(f"{self.path} does not have {name} of shape {tuple(tensor.shape)}")

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> "torch.futures.Future[None]":
        """Check the files that this process reads from, and read."""
        for name in {self.storage_data[item.storage_index].relative_path for item in plan.items}:
            if name not in self._files:
                raise ValueError(f"{self.path} has a tensor in {name}, which its checkpoint does not list")
            self._files[name].check()
        return super().read_data(plan, planner)


class _Metadata(pickle.Unpickler):
    """Reads the metadata that torch writes of tensors, without running other code."""

    def __init__(self, file: Any, place: Path) -> None:
        super().__init__(file)
        self._place = place

    def load(self) -> Any:
        try:
            return super().load()
        except Exception as error:  # hostile pickles raise errors of many types
            raise ValueError(
                f"the {METADATA} of the shards of {self._place} is broken, or holds code: {error}"
            ) from None

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib") and name in ("PosixPath", "WindowsPath"):
            return Path
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if name not in CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is not read")
        return super().find_class(module, name)


def filled(
    place: Path, content: Mapping[Any, Any], like: Like | None = None, group: dist.ProcessGroup | None = None
) -> dict[Any, Any]:
    """A checkpoint's content, or a part of it, with its sharded tensors read from the folder beside `place`.

    Whole and on the CPU; or, with `like`, into the memory that it gives for each, by all processes of a `group`.
    ValueError or FileNotFoundError if a file is missing, or has other bytes than those that were written.
    """
    if SHARDS not in content:
        return dict(content)
    whole = dict(content)
    reader = Reader(place, whole.pop(SHARDS))
    absent = [(path, leaf) for path, leaf in tree_flatten_with_path(whole)[0] if _is_absent(leaf)]
    reader.check({keystr(path): leaf for path, leaf in absent})
    tensors = {keystr(path): (like or _whole)(path, leaf) for path, leaf in absent}
    with _own_errors(), warnings.catch_warnings(action="ignore"):  # that one process loads alone
        load(tensors, storage_reader=reader, process_group=group, no_dist=like is None)
    given = tree_map_with_path(lambda path, leaf: tensors.get(keystr(path), leaf), whole)
    return dict(given)


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


@contextmanager
def _own_errors() -> Iterator[None]:
    """The first error of any process, where torch raises one that lists those of all."""
    try:
        yield
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError | ValueError):
                raise cause from error
        raise


def _is_sharded(leaf: Any) -> bool:
    return isinstance(leaf, DTensor)


def _is_absent(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_meta


def _unsharded(leaf: Any) -> Any:
    """A meta tensor for a sharded tensor, and a copy on the CPU of another one."""
    if isinstance(leaf, DTensor):
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf


def _whole(path: Sequence[Any], leaf: Tensor) -> Tensor:
    return torch.empty(leaf.shape, dtype=leaf.dtype)
