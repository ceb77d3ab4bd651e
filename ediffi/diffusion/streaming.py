"""Experts streamed from disk: one network in memory, with the weights of the expert in use."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from ediffi.diffusion.weights import check_extremes, extremes, load_checked, read_weights
from ediffi.io.files import CheckedFile

CHUNK = 1 << 20


class StreamedDenoisers(nn.Module):
    """A sequence of denoisers of one architecture, with one of them in memory; same bits as resident ones.

    Indexing copies one of `files`, which are from low to high noise, into `network`, unless its weights are the current
    ones. A thread prepares the one before, since sampling goes from high to low noise: it reads the file into the page
    cache, or, of three experts or more on CUDA, copies it to the device, by a stream of its own while the network
    works. So CUDA holds two experts; of two it holds one, since both would be the whole ensemble.

    Args:
        network: its parameters may be on the meta device; the last file's weights are loaded into it.
        files: of the experts. Indexing is a ValueError if one was changed after its first check.
        device: where the network is loaded; it may be moved later.
    """

    def __init__(self, network: nn.Module, files: Sequence[CheckedFile], device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.network, self.files = network, tuple(files)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._stream: torch.cuda.Stream | None = None
        load_checked(network, self.files[-1], device)
        self._current: int | None = len(self) - 1
        self._prepare_next()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> nn.Module:
        """The network with the weights of expert `index`, until the next one is indexed."""
        if index != self._current:
            self._current = None  # if an error interrupts, the weights are no expert's
            ready = index == self._next and self._prepared.exception() is None
            if prepared := self._prepared.result() if ready else {}:
                state = self.network.state_dict()
                for key, value in prepared.items():
                    state[key].copy_(value)  # in place: a captured graph reads the same addresses
                prepared.clear()  # so that the next copy gets this memory
            else:
                load_checked(self.network, self.files[index])
            self._current = index
            self._prepare_next()
        return self.network

    def forget(self) -> None:
        """Load the weights again at the next call, as after a change of dtype, which rounds those in memory."""
        self._current = None

    def _prepare_next(self) -> None:
        assert self._current is not None
        self._next = (self._current - 1) % len(self)  # after the first, the next image's
        device = next(self.network.parameters()).device
        if device.type == "cuda":  # the copy may get the memory of the last one, which the network may be reading yet
            self._stream = self._stream or torch.cuda.Stream(device)
            self._stream.wait_stream(torch.cuda.current_stream(device))
        ahead = self._copies_ahead(device)
        self._prepared: Future[dict[str, Tensor]] = self._thread.submit(self._prepare, self._next, device, ahead)

    def _copies_ahead(self, device: torch.device) -> bool:
        return device.type == "cuda" and len(self) > 2

    @torch.no_grad()
    def _prepare(self, index: int, device: torch.device, ahead: bool) -> dict[str, Tensor]:
        """The weights of an expert on the device; else none, and its file in the page cache."""
        file = self.files[index]
        path = file.check()
        if not ahead:
            _read(path)
            return {}
        with torch.cuda.stream(self._stream):
            state = self.network.state_dict()
            weights = {key: value.to(device, copy=True) for key, value in read_weights(path, state)}
            check_extremes({key: extremes(value) for key, value in weights.items()}, path)
        if self._stream is not None:
            self._stream.synchronize()
        file.check()
        return weights


def _read(path: Path) -> None:
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
