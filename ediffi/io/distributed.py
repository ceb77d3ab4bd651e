"""The processes of a run, over devices and nodes: started by Lightning Fabric, or by torchrun or SLURM before.

They communicate through gloo on the CPU, whatever device they work on: a process may wait for another without limit,
where NCCL would time out after minutes.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from ediffi.io.devices import check_processes, find_device

T = TypeVar("T")


@dataclass(frozen=True)
class DistributedContext:
    """One process of a run; by default the only one. `gather` is called by every process with a value, and returns the
    values of all, in order of rank."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    def together(self, action: Callable[[], T]) -> T:
        """Run `action` in every process, and return its result only if it succeeded in all of them. A process's own
        ValueError or OSError is raised as it is; ChildProcessError: it failed in another process."""
        problem: Exception | None = None
        try:
            result = action()
        except (ValueError, OSError) as error:
            problem = error
        problems = self.gather(None if problem is None else str(problem))
        if problem is not None:
            raise problem
        for rank, text in enumerate(problems):
            if text is not None:
                raise ChildProcessError(f"process {rank} of this run failed: {text}")
        return result


def launch(device: str = "auto", devices: int = 1, num_nodes: int = 1) -> DistributedContext:
    """Start the other processes of a run, each with the same command line, and connect them.

    Under torchrun the processes exist already, and its numbers are used. With several nodes, the command is started on
    each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set. ValueError: there is no such device, or not so many, or
    torchrun has other numbers.
    """
    for name, value in (("devices", devices), ("num_nodes", num_nodes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    if torchrun:
        local, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
        found = (local, world // local)
        if (devices, num_nodes) not in ((1, 1), found):
            started = f"torchrun started {found[0]} processes on each of {found[1]} nodes"
            raise ValueError(f"{started}, but devices and num_nodes are {devices} and {num_nodes}; leave them out")
        devices, num_nodes = found
    if devices * num_nodes == 1:
        return DistributedContext(device=str(find_device(device)))
    if ":" in device:
        many = f"{devices * num_nodes} processes"
        raise ValueError(f"{many} need a device without a number, such as cuda, got {device!r}")
    found_device = find_device(device)
    check_processes(devices, found_device.type)
    return _join(str(found_device), devices, num_nodes, torchrun)


def _join(device: str, devices: int, num_nodes: int, torchrun: bool) -> DistributedContext:
    import torch
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they log every process that joins
    strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(days=30))
    try:
        fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, strategy=strategy)
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        raise ValueError(f"{devices} devices of kind {device!r} are not available: {error}") from None
    fabric.launch()
    if fabric.local_rank or torchrun:
        _end_with_parent()

    def gather(value: T) -> list[T]:
        values: list[Any] = [None] * fabric.world_size
        try:
            torch.distributed.all_gather_object(values, value)
        except RuntimeError:  # what gloo raises when a connection is closed
            raise ConnectionError("another process of this run has failed; its own message says why") from None
        return values

    return DistributedContext(fabric.global_rank, fabric.world_size, str(fabric.device), gather)


def _end_with_parent() -> None:
    """End this process soon after the one that started it, even if that is killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


@contextmanager
def rendezvous(number: int) -> Iterator[None]:
    """Where the processes that srun or torchrun started meet in the block: at a port of its own for each `number`.

    At one port, a process that is early would find the store of the meeting before, which closes, or what that has
    left in torchrun's store. Without srun and torchrun, nothing changes.
    """
    job = os.environ.get("SLURM_JOB_ID", "")[-4:] if "SLURM_PROCID" in os.environ else ""
    port = os.environ.get("MASTER_PORT") or (str(15000 + int(job)) if job.isdecimal() else "")  # 15000: Lightning's
    if not port.isdecimal():
        yield
        return
    kept = {name: os.environ.get(name) for name in ("MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")}
    os.environ |= {"MASTER_PORT": str(int(port) + 1 + number), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}


def global_rank() -> int:
    """The number of this process among those that torchrun, srun or a user (`NODE_RANK`) started; 0 if it is alone."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "NODE_RANK"))
    return int(next((rank for rank in ranks if rank), "0"))
