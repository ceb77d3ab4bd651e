"""The same work on many machines: each shard once, by a worker for each device of a Ray cluster, through Ray Data.

Ray Data hands out the shards, starts a killed worker again and gives its shards to others. It moves their numbers only:
a worker reads its shards from where they are, and writes them to where they belong, so that nothing of a data set goes
through the memory of Ray. A worker has two shards at a time: while its device computes one, it reads or writes another.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

AT_A_TIME = 2  # shards of a worker
MAX_BLOCKS = 10_000  # tasks that Ray Data plans at most; each has one or several shards
T = TypeVar("T")

Work = Callable[[int], Mapping[str, Any]]
"""What is done with the shard of a number; plain values come back."""


@dataclass(frozen=True)
class RayCluster:
    """The Ray cluster at an address ("auto": the one that this machine belongs to; "local": one that is started for
    this command), and the number of workers. ValueError: Ray is not installed, there is no such cluster, or it has
    fewer devices than workers.

    Args:
        device: "cpu", or a GPU for each worker; "auto" takes GPUs where the cluster has them.
    """

    address: str = "auto"
    workers: int = 1
    device: str = "auto"

    def connect(self) -> "RayCluster":
        """Connect this process, unless it is connected already."""
        if find_spec("ray") is None or find_spec("pyarrow") is None:
            raise ValueError("--engine ray needs Ray Data: pip install 'ediffi[ray]'")
        import ray
        from ray.data import DataContext

        if not ray.is_initialized():
            try:
                ray.init(address=self.address, logging_level=logging.WARNING, log_to_driver=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                why = str(error).partition("\n")[0]
                raise ValueError(f"there is no Ray cluster at --address {self.address}: {why}") from None
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        DataContext.get_current().enable_progress_bars = False  # the progress of a run is shown as that of any other
        resources, kind = ray.cluster_resources(), "GPU" if self.gpus else "CPU"
        if (there := int(resources.get(kind, 0))) < self.workers:
            raise ValueError(f"{self.workers} workers need a {kind} each, and the Ray cluster has {there}")
        return self

    @property
    def gpus(self) -> int:
        """GPUs of a worker."""
        import ray

        return int(self.device != "cpu" and (self.device != "auto" or ray.cluster_resources().get("GPU", 0) > 0))

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function whose last argument is the device, computed where a worker would."""
        import ray
        from ray.exceptions import RayTaskError

        remote = ray.remote(num_cpus=1, num_gpus=self.gpus)(_there)
        try:
            result: T = ray.get(remote.remote(function, arguments, Path.cwd()))
        except RayTaskError as error:
            raise error.cause from None
        return result

    def each(self, worker: Callable[[str], Work], numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """What the workers return for each number, in the order in which they are done. `worker` makes one of a device,
        and must be picklable."""
        from ray.data import ActorPoolStrategy

        pool = ActorPoolStrategy(
            size=self.workers, max_concurrent_calls_per_actor=AT_A_TIME, enable_true_multi_threading=True
        )
        data = self.dataset(numbers).map(
            _Actor, fn_constructor_args=(worker, Path.cwd()), compute=pool, num_cpus=1, num_gpus=self.gpus
        )
        yield from data.iter_rows()

    def dataset(self, numbers: Sequence[int]) -> Any:
        """A data set of Ray Data with a row for each number, {"number": ...}."""
        import ray

        items = [{"number": number} for number in numbers]
        return ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS))


class _Actor:
    """A worker in a process of the cluster."""

    def __init__(self, worker: Callable[[str], Work], folder: Path) -> None:
        self._work = worker(_device(folder))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"number": row["number"], **self._work(int(row["number"]))}


def _there(function: Callable[..., T], arguments: Sequence[Any], folder: Path) -> T:
    return function(*arguments, _device(folder))


def _device(folder: Path) -> str:
    """The device that Ray has given to this process, which goes to the working folder of the command, if it can, so
    that relative paths mean the same."""
    import ray

    with suppress(OSError):
        os.chdir(folder)
    return "cuda" if ray.get_gpu_ids() else "cpu"
