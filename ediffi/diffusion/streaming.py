"""Experts streamed from disk: one network in memory, with the weights of the expert in use."""

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import safetensors
import torch
from torch import nn

CHUNK = 1 << 20
GROUP = 8
"""Tensors that are copied from one mapping of a file."""


class StreamedDenoisers(nn.Module):
    """A sequence of denoisers of one architecture, with one of them in memory; same bits as resident ones.

    Indexing copies a memory-mapped file into the network, unless its weights are the current ones. Meanwhile a thread
    reads the next file into the page cache: sampling goes from high to low noise, so that is the previous index.

    Args:
        network: the architecture; its weights are overwritten.
        files: safetensors files from low to high noise.

    Raises:
        ValueError: there is no file.
    """

    def __init__(self, network: nn.Module, files: Sequence[Path]) -> None:
        super().__init__()
        if not files:
            raise ValueError("at least one file of weights is needed")
        self.network, self.files = network, tuple(files)
        self._current: int | None = None
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._prefetched: Future[None] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> nn.Module:
        """The network with the weights of expert `index`, until the next one is indexed."""
        if index != self._current:
            if self._prefetched is not None:
                self._prefetched.result()
            load_weights(self.network, self.files[index])
            self._current = index
            self._prefetched = self._reader.submit(_read, self.files[index - 1])
        return self.network


@torch.no_grad()
def load_weights(network: nn.Module, path: Path) -> None:
    """Copy a memory-mapped safetensors file into a network, with no second copy of all weights in memory.

    Raises:
        ValueError: the file is broken, or its tensors are not the network's.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            state = network.state_dict()
            if set(file.keys()) != set(state) or any(
                list(t.shape) != file.get_slice(k).get_shape() for k, t in state.items()
            ):
                raise ValueError(f"{path} has the weights of another network")
        keys = list(state)
        for first in range(0, len(keys), GROUP):  # a mapping counts as memory, page by page, until it is closed
            with safetensors.safe_open(path, framework="pt") as file:
                for key in keys[first : first + GROUP]:
                    state[key].copy_(file.get_tensor(key))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def _read(path: Path) -> None:
    """Read a file once, so that it is in the page cache."""
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def parameters(path: Path) -> int:
    """The number of parameters in a safetensors file, from its header.

    Raises:
        ValueError: the file is broken.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118  (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
