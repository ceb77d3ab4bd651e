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

    Indexing copies one of `files`, which are from low to high noise, into `network`, unless its weights are the current
    ones. A thread then reads the next file into the page cache: sampling goes from high to low noise, so that is the
    previous index.
    """

    def __init__(self, network: nn.Module, files: Sequence[Path]) -> None:
        super().__init__()
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
            self._prefetched = self._reader.submit(_read, self.files[index - 1])  # after the first, the next image's
        return self.network


@torch.no_grad()
def load_weights(network: nn.Module, path: Path) -> None:
    """Copy a memory-mapped safetensors file into a network, with no second copy of all weights in memory.

    ValueError if the file is broken, or its tensors are not those of the network; it names the first such tensor.
    """
    state = network.state_dict()
    keys, wanted = list(state), {key: list(tensor.shape) for key, tensor in state.items()}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            found = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (not a dict)
        if wrong := [key for key in wanted | found if wanted.get(key) != found.get(key)]:
            shapes = f"{found.get(wrong[0], 'none')} in the file, {wanted.get(wrong[0], 'none')} in the network"
            raise ValueError(f"{path} has the weights of another network: the shape of {wrong[0]!r} is {shapes}")
        for first in range(0, len(keys), GROUP):  # a mapping counts as memory, page by page, until it is closed
            with safetensors.safe_open(path, framework="pt") as file:
                for key in keys[first : first + GROUP]:
                    state[key].copy_(file.get_tensor(key))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def _read(path: Path) -> None:
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def parameters(path: Path) -> int:
    """The number of parameters in a safetensors file, from its header; ValueError if the file is broken."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118  (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None
