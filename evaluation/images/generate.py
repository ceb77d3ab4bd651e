"""Pictures of many prompts, made by whoever is handed in, over any number of processes, and gone on with when cut.

The work is fixed blocks of `batch_size` consecutive pictures. A block with anything missing is made again as a whole,
in the very batch it was made in before, so that a picture does not depend on where a run was cut, nor on how many
processes there are: bits are equal where the generator's are.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from PIL import Image
from tqdm import tqdm

from ediffi.evaluation.images import claim
from ediffi.evaluation.images.numbered import Stock, Store

T = TypeVar("T")

Gather = Callable[[Any], list[Any]]
"""Called by every process with a value; gives each of them the values of all, in order of rank."""


@runtime_checkable
class Generator(Protocol):
    """Whoever makes the pictures.

    Picture k must be a function of the settings, the number k, its prompt, and the batch it is made in.
    """

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain JSON values: everything the pictures depend on besides prompts and numbers."""
        ...

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """A picture for each prompt; the first has the number `first_index`.

        Texts in a picture's `info` are stored with it.
        """
        ...


@dataclass(frozen=True)
class Made:
    """What a run came to, over all processes.

    Attributes:
        count: pictures there are now.
        made: by this run.
        broken: were there, and broken, and were made again.
        settings: SHA-256 of what the folder is for.
    """

    count: int
    made: int
    broken: int
    settings: str

    @property
    def there(self) -> int:
        """How many were there already, and whole."""
        return self.count - self.made

    def __str__(self) -> str:
        again = f", broken and made again: {self.broken}" if self.broken else ""
        return f"{self.count} pictures, {self.there} of them were there{again}"


def alone(value: T) -> list[T]:
    """The `Gather` of a single process."""
    return [value]


def generate(
    generator: Generator,
    prompts: Sequence[str],
    store: Store,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    gather: Gather = alone,
    show: bool = True,
) -> Made:
    """Make what is missing of a picture for each prompt; verify what is there.

    Args:
        generator: makes them.
        prompts: of pictures 0, 1, ...
        store: where they go; the same for all processes.
        batch_size: pictures at a time; a part of the settings, since a batch's size can change last bits.
        rank: of this process. Blocks (or shards) `rank`, `rank + world_size`, ... are its own.
        world_size: number of processes.
        gather: how they meet: at the start, after verifying, at the end.
        show: a bar on rank 0, with what all processes have written, if stderr is a terminal.

    Raises:
        ValueError: a number is out of range; the folder is for other settings, or holds other pictures; the generator
            returned too few; a picture is missing at the end.
        BlockingIOError: another run is at work in the folder.
        ChildProcessError: another process of this run could not go on.
        OSError: the folder cannot be written.
    """
    unit = _check(generator, prompts, store, batch_size, rank, world_size)
    settings = {**generator.settings, "prompts": list(prompts), "batch_size": batch_size, "store": dict(store.layout)}
    digest = claim.settings_hash(settings)
    units = [range(start, min(start + unit, len(store))) for start in range(0, len(store), unit)][rank::world_size]
    with ExitStack() as stack:

        def begin() -> None:
            prepare(store)
            stack.enter_context(claim.held(store.folder))
            claim.settle(store.folder, settings)

        def verify() -> list[Stock]:
            if rank:
                stack.enter_context(claim.held(store.folder, rank))
            return _verified(store, units, digest, show and rank == 0)

        together(gather, rank, begin if rank == 0 else lambda: None)
        stocks = together(gather, rank, verify)
        with _bar(store, show and rank == 0):
            for numbers, stock in zip(units, stocks, strict=True):
                if stock.missing:
                    _make(generator, prompts, store, numbers, stock.missing, batch_size, digest)
            counts = gather((sum(len(s.missing) for s in stocks), sum(s.broken for s in stocks)))
        together(gather, rank, (lambda: store.finish(digest)) if rank == 0 else lambda: None)
    made, broken = (sum(column) for column in zip(*counts, strict=True))
    return Made(len(store), made, broken, digest)


def together(gather: Gather, rank: int, action: Callable[[], T]) -> T:
    """Do something in every process, and go on only if all could; a process's own error is raised as it is.

    Raises:
        ChildProcessError: it could not be done in another process.
    """
    problem: Exception | None = None
    try:
        result = action()
    except (ValueError, OSError) as error:
        problem = error
    problems = gather(None if problem is None else str(problem))
    if problem is not None:
        raise problem
    for other, text in enumerate(problems):
        if text is not None:
            raise ChildProcessError(f"process {other} of this run could not go on: {text}")
    return result


def prepare(store: Store) -> None:
    """Make the store's folder, unless it is there and holds pictures that nobody could have made for it.

    Raises:
        ValueError: it holds such pictures.
        OSError: it cannot be made.
    """
    if store.folder.exists() and not store.folder.is_dir():
        raise NotADirectoryError(f"{store.folder} is a file; the pictures need a folder")
    store.folder.mkdir(parents=True, exist_ok=True)
    if strangers := store.strangers():
        raise ValueError(f"{store.folder} holds {strangers[0]}, which is not of this run; choose another folder")
    if store.count() and not (store.folder / claim.RUN).exists():
        raise ValueError(f"{store.folder} holds pictures and no {claim.RUN} that says of what; choose another folder")


def _check(
    generator: Generator, prompts: Sequence[str], store: Store, batch_size: int, rank: int, world_size: int
) -> int:
    """Refuse what cannot be; the size of a unit."""
    for name, value in (("batch_size", batch_size), ("world_size", world_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
    if len(prompts) != len(store):
        raise ValueError(f"{len(prompts)} prompts were given for a store of {len(store)} pictures")
    if taken := {"prompts", "batch_size", "store"} & generator.settings.keys():
        raise ValueError(f"the generator's settings must leave {sorted(taken)[0]!r} to the run")
    return store.unit(batch_size)


def _verified(store: Store, units: Sequence[range], settings: str, show: bool) -> list[Stock]:
    """What is there of each unit, under a bar if there is anything."""
    hidden = None if show and store.count() else True
    with tqdm(units, desc="verifying", unit="block", leave=False, disable=hidden) as bar:
        return [store.stock(numbers, settings) for numbers in bar]


def _make(
    generator: Generator,
    prompts: Sequence[str],
    store: Store,
    numbers: range,
    missing: Sequence[int],
    batch_size: int,
    settings: str,
) -> None:
    """Make the blocks of a unit that lack a picture, and write what is missing."""
    wanted = set(missing)
    with store.writing(numbers, settings) as write:
        for start in range(numbers.start, numbers.stop, batch_size):
            block = range(start, min(start + batch_size, numbers.stop))
            if wanted.isdisjoint(block):
                continue
            images = generator([prompts[index] for index in block], start)
            if len(images) != len(block):
                raise ValueError(f"the generator returned {len(images)} pictures for {len(block)} prompts")
            for index, image in zip(block, images, strict=True):
                if index in wanted:
                    write(index, image, prompts[index])


@contextmanager
def _bar(store: Store, show: bool) -> Iterator[None]:
    """A bar over what all processes have written, counted where they write it every second, or as often as is cheap."""
    if not show:
        yield
        return
    with tqdm(total=len(store), initial=store.count(), unit="picture", disable=None) as bar:
        done = threading.Event()

        def count() -> float:
            started = time.perf_counter()
            with suppress(OSError):
                bar.n = store.count()
            bar.refresh()
            return max(1.0, 20 * (time.perf_counter() - started))

        def watch() -> None:
            pause = 1.0
            while not done.wait(pause):
                pause = count()

        watcher = threading.Thread(target=watch, daemon=True)
        if not bar.disable:
            watcher.start()
        try:
            yield
        finally:
            done.set()
            if not bar.disable:
                watcher.join()
                count()
