"""The sharded tensors of a checkpoint, read back from the folder beside it: see `sharded_checkpoint`, which writes it.

torch reads its folders by `pickle`, which can run code: `Reader` reads metadata of the classes that torch writes only.
"""

import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map_with_path

from ediffi.io import files

SHARDS = "shards"
"""Entry of a checkpoint that names the folder of its sharded tensors, and the hashes of the files there."""
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
    with own_errors(), warnings.catch_warnings(action="ignore"):  # that one process loads alone
        load(tensors, storage_reader=reader, process_group=group, no_dist=like is None)
    given = tree_map_with_path(lambda path, leaf: tensors.get(keystr(path), leaf), whole)
    return dict(given)


@contextmanager
def own_errors() -> Iterator[None]:
    """The first error of any process, where torch raises one that lists those of all."""
    try:
        yield
    except CheckpointException as error:
        for cause, _ in error.failures.values():
            if isinstance(cause, OSError | ValueError):
                raise cause from error
        raise


def _is_absent(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_meta


def _whole(path: Sequence[Any], leaf: Tensor) -> Tensor:
    return torch.empty(leaf.shape, dtype=leaf.dtype)
