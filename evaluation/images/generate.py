"""Generate images of many prompts with any number of processes; a run that was interrupted is resumed.

The work is fixed blocks of `batch_size` consecutive images. A block with a missing image is generated again as a whole,
in the same batch as before. So an image depends neither on where a run was interrupted nor on the number of processes:
the bits are equal where the generator's are.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from ediffi.evaluation.images import claim
from ediffi.evaluation.images.numbered import ImageFolder, ImageShards
from ediffi.io.distributed import DistributedContext
from ediffi.io.progress import Progress

Store = ImageFolder | ImageShards
"""Where images are written."""


@runtime_checkable
class Generator(Protocol):
    """Makes images: image k must be a function of the settings, the number k, its prompt, and its batch."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain JSON values: everything that the images depend on besides prompts and numbers."""
        ...

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """An image for each prompt; the first has the number `first_index`. Texts in an image's `info` are stored."""
        ...


@dataclass(frozen=True)
class Generated:
    """What a run did, over all processes."""

    count: int  # images in the store
    made: int  # by this run, in place of broken ones too
    broken: int  # when the run started
    settings: str  # SHA-256 of the run's settings

    @property
    def reused(self) -> int:
        """Images that an earlier run made."""
        return self.count - self.made

    def __str__(self) -> str:
        again = f", broken and made again: {self.broken}" if self.broken else ""
        return f"{self.count} images, {self.reused} already there{again}"


def open_store(folder: Path, count: int, shard_size: int | None = None) -> Store:
    """A place for `count` images: PNG files, or shards of `shard_size` images."""
    if shard_size is not None:
        return ImageShards(folder, count, shard_size)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    return ImageFolder(folder, (f"{index:05d}.png" for index in range(count)))


def generate(
    generator: Generator,
    prompts: Sequence[str],
    store: Store,
    *,
    batch_size: int,
    context: DistributedContext | None = None,
) -> Generated:
    """Generate the missing images of a store, one for each prompt; verify the others.

    Units (batches or shards) are dealt to the processes in turn. On a terminal, rank 0 shows a bar over the images of
    all processes. `batch_size` is one of the run's settings, since the batch can change the last bits.

    ValueError: the folder has other settings or other images, or an image is missing at the end. BlockingIOError:
    another run uses the folder. ChildProcessError: another process of this run failed.
    """
    context = context or DistributedContext()
    unit = _check(generator, prompts, store, batch_size)
    settings = {**generator.settings, "prompts": list(prompts), "batch_size": batch_size, "store": dict(store.layout)}
    digest = claim.settings_hash(settings)
    units = [range(start, min(start + unit, len(store))) for start in range(0, len(store), unit)]
    units = units[context.rank :: context.world_size]
    with ExitStack() as stack:

        def begin() -> None:
            if context.rank == 0:
                _prepare(store)
                stack.enter_context(claim.lock(store.folder))
                claim.record_settings(store.folder, settings)

        def verify() -> list[tuple[list[int], int]]:
            if context.rank:
                stack.enter_context(claim.lock(store.folder, context.rank))
            hidden = context.rank > 0 or not store.count()
            with Progress(units, desc="verifying", unit="block", leave=False, disable=hidden) as bar:
                return [store.verify(numbers, digest) for numbers in bar]

        def finish() -> None:
            if context.rank == 0:
                if (found := store.count()) != len(store):
                    reason = "though every process has finished; check that all processes see the same folder"
                    raise ValueError(f"{store.folder} has {found} of {len(store)} images, {reason}")
                store.finish(digest)

        context.together(begin)
        found = context.together(verify)
        with _Progress(store, context.rank == 0) as progress:
            for numbers, (missing, _) in zip(units, found, strict=True):
                if missing:
                    images = _images(generator, prompts, numbers, missing, batch_size)
                    store.write(numbers, digest, progress.watch(images))
            counts = context.gather((sum(len(missing) for missing, _ in found), sum(broken for _, broken in found)))
        context.together(finish)
    made, broken = (sum(column) for column in zip(*counts, strict=True))
    return Generated(len(store), made, broken, digest)


def _check(generator: Generator, prompts: Sequence[str], store: Store, batch_size: int) -> int:
    """Check the arguments; returns the number of images in a unit."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(prompts) != len(store):
        raise ValueError(f"{len(prompts)} prompts were given for a store of {len(store)} images")
    if taken := {"prompts", "batch_size", "store"} & generator.settings.keys():
        raise ValueError(f"the generator's settings must not contain {sorted(taken)[0]!r}, which the run sets")
    return store.unit(batch_size)


def _prepare(store: Store) -> None:
    """Make the store's folder; refuse one with images that this run cannot have made."""
    if store.folder.exists() and not store.folder.is_dir():
        raise NotADirectoryError(f"{store.folder} is a file; the images need a folder")
    store.folder.mkdir(parents=True, exist_ok=True)
    if unexpected := store.unexpected():
        raise ValueError(f"{store.folder} holds {unexpected[0]}, which is not of this run; choose another folder")
    if store.count() and not (store.folder / claim.RUN).exists():
        raise ValueError(f"{store.folder} holds images and no {claim.RUN} with their settings; choose another folder")


def _images(
    generator: Generator, prompts: Sequence[str], numbers: range, missing: Sequence[int], batch_size: int
) -> Iterator[tuple[int, Image.Image, str]]:
    """The missing images of a unit, generated in whole blocks: number, image, prompt."""
    wanted = set(missing)
    for start in range(numbers.start, numbers.stop, batch_size):
        block = range(start, min(start + batch_size, numbers.stop))
        images = generator([prompts[index] for index in block], start)
        if len(images) != len(block):
            raise ValueError(f"the generator returned {len(images)} images for {len(block)} prompts")
        for index, image in zip(block, images, strict=True):
            if index in wanted:
                yield index, image, prompts[index]


class _Progress(Progress):
    """Over the images that all processes have written: files are counted, at most every second."""

    def __init__(self, store: Store, show: bool) -> None:
        initial = store.count() if show else 0
        super().__init__(total=len(store), initial=initial, desc="generating", unit="image", disable=not show)
        self._store, self._next = store, 0.0

    def watch(self, images: Iterator[tuple[int, Image.Image, str]]) -> Iterator[tuple[int, Image.Image, str]]:
        for image in images:
            if not self.disable and time.monotonic() >= self._next:
                self._count()
            yield image

    def close(self) -> None:
        if not self.disable:
            self._count()
        super().close()

    def _count(self) -> None:
        started = time.monotonic()
        self.n = self._store.count()
        self.refresh()
        self._next = started + max(1.0, 20 * (time.monotonic() - started))
