"""Shards of one's own images: the entries of `sources`, in img2dataset's layout, for training and for validation.

A shard is the unit of work and of resuming, as in embedding: it is whole or not there, and the same command goes on
with the ones that are missing.
"""

import hashlib
import io
import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from ediffi.data.embedding.estimate import plural
from ediffi.data.embedding.ledger import Ledger
from ediffi.data.image_facts import ImageFacts
from ediffi.data.importing.sources import Entry
from ediffi.data.shards import write_tar
from ediffi.data.tar import MAX_MEMBER, READERS, RawSample
from ediffi.evaluation.images.members import is_image
from ediffi.io.image_input import read_image
from ediffi.io.images import BadImageError, color, open_image
from ediffi.io.progress import Progress

KEPT = {"PNG": "png", "JPEG": "jpg", "MPO": "jpg", "WEBP": "webp"}
"""Formats whose bytes are kept as they are, and the suffix of each in a shard."""
QUALITY = 95  # of a photograph that is made smaller
PARTS = ("train", "val")
Keyed = tuple[str, Entry]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImportRun:
    """What to import, into `folder`/train and `folder`/val.

    Args:
        entries: images with captions.
        folder: of the two folders of shards.
        val: share of the images for validation; at least one image, if it is above 0.
        shard_size: samples of a shard.
        image_size: the shortest side of larger images, which are averaged down to it; None leaves them as they are.
        background: that transparent images are laid on, where they are not kept as they are.
    """

    entries: Sequence[Entry]
    folder: Path
    val: float = 0.05
    shard_size: int = 1000
    image_size: int | None = None
    background: str = "white"

    def __call__(self) -> None:
        """Write what is missing. ValueError: the folders hold other shards, nothing of a part can be
        read, or there are too few images to part."""
        color(self.background)
        parts = self.parts()
        ledgers = {part: Ledger(self.folder / part, self._count(of), self._request(of)) for part, of in parts.items()}
        for part, ledger in ledgers.items():
            self._write(part, parts[part], ledger)

    def parts(self) -> dict[str, list[Keyed]]:
        """The entries with their keys, by part. An image is for validation if the hash of its name is in the share, so
        that it stays so when others are added."""
        if not 0 <= self.val < 1:
            raise ValueError(f"val must be a share from 0 to below 1, got {self.val}")
        places = {entry.name: _place(entry.name) for entry in self.entries}
        chosen = {name for name, place in places.items() if place < self.val}
        if self.val and not chosen:
            chosen = {min(places, key=places.__getitem__)}
        if len(chosen) == len(places):
            raise ValueError(
                f"{plural(len(places), 'image')} cannot be divided into training and validation; "
                "--val 0 uses all of them for training"
            )
        by_part: dict[str, list[Keyed]] = {part: [] for part in (PARTS if chosen else PARTS[:1])}
        for key, entry in _keyed(self.entries):
            by_part["val" if entry.name in chosen else "train"].append((key, entry))
        return by_part

    def _count(self, entries: Sequence[Keyed]) -> int:
        return -(-len(entries) // self.shard_size)

    def _request(self, entries: Sequence[Keyed]) -> dict[str, Any]:
        """What a folder is for: the same images and settings make the same shards."""
        listed = "".join(json.dumps([key, entry.name, entry.caption, entry.metadata]) + "\n" for key, entry in entries)
        return {
            "images": {"count": len(entries), "sha256": hashlib.sha256(listed.encode()).hexdigest()},
            "shard_size": self.shard_size,
            "image_size": self.image_size,
            "background": self.background,
        }

    def _write(self, part: str, entries: Sequence[Keyed], ledger: Ledger) -> None:
        if ledger.is_complete:
            logger.info("complete already: %s", ledger.place("index.json"))
            return
        ledger.begin()
        done = sum(record["samples"] + len(record["left_out"]) for record in ledger.records().values())
        with (
            Progress(total=len(entries), initial=done, unit="image", desc=f"import {part}") as bar,
            ThreadPoolExecutor(READERS) as pool,
        ):
            for number in ledger.pending():
                with ledger.taken(number) as mine:
                    if not mine:
                        raise BlockingIOError(f"{ledger.folder} is in use by another import; wait for it to end")
                    left_out: list[tuple[str, str]] = []
                    some = entries[number * self.shard_size :][: self.shard_size]
                    samples = self._samples(some, pool, bar, left_out)
                    entry = write_tar(ledger.place(ledger.name(number)), samples)
                    ledger.record(number, {**entry, "left_out": left_out})
        self._finish(ledger)

    def _samples(
        self, entries: Sequence[Keyed], pool: ThreadPoolExecutor, bar: Progress, left_out: list[tuple[str, str]]
    ) -> Iterator[RawSample]:
        """The samples of a shard; images that cannot be used go to `left_out`, with the reason."""
        for sample in pool.map(self._sample, entries):
            if isinstance(sample, tuple):
                left_out.append(sample)
                logger.warning("left out: %s", sample[1])
            else:
                yield sample
            bar.update()

    def _sample(self, keyed: Keyed) -> RawSample | tuple[str, str]:
        key, entry = keyed
        try:
            suffix, data, facts = encoded(entry, self.image_size, self.background)
        except (OSError, BadImageError) as error:
            return entry.name, str(error) if entry.name in str(error) else f"{entry.name}: {error}"
        about = {
            **entry.metadata,
            "name": entry.name,
            "caption": entry.caption,
            "key": key,
            "status": "success",
            **facts,
        }
        return {"__key__": key, suffix: data, "txt": entry.caption.encode(), "json": json.dumps(about).encode()}

    def _finish(self, ledger: Ledger) -> None:
        """Write the index, and log what was done."""
        records = ledger.records().values()
        samples, left_out = (
            sum(one["samples"] for one in records),
            [name for one in records for name in one["left_out"]],
        )
        if not samples:
            raise ValueError(f"none of the {len(left_out):,} images for {ledger.folder} can be read: {left_out[0][1]}")
        facts = ImageFacts()
        for one in records:
            sides = Counter({int(side): count for side, count in one["sides"].items()})
            facts.update(ImageFacts(sides, one["smallest"], one["transparent"]))
        index = ledger.finish({"dataset": "imported"})
        told = f"; left out: {len(left_out):,} (index.json names them)" if left_out else ""
        counted = f"{plural(samples, 'sample')} in {plural(ledger.count, 'shard')}{told}"
        logger.info("\n".join([counted, *facts.lines(), index]))


def encoded(entry: Entry, image_size: int | None, background: str) -> tuple[str, bytes, dict[str, Any]]:
    """The image of an entry as a shard has it: its suffix, content and facts (sizes and hash).

    It is read to the end, as training reads it. PNG, JPEG and WebP keep their bytes; anything else, animations and
    images that are made smaller are written as viewers show them. BadImageError: it cannot be used.
    """
    data, name = entry.place.read_bytes(), entry.name
    if len(data) > MAX_MEMBER:
        raise BadImageError(f"{name} has more than {MAX_MEMBER >> 20} MiB")
    header = open_image(data, name, decode=False)
    image = read_image(data, name, color(background))
    original, suffix = image.size, KEPT.get(str(header.format))
    animated = header.info["frames"] > 1 and header.format != "MPO"
    smaller = image_size is not None and min(original) > image_size
    if image_size is not None and smaller:
        width, height = (round(side * image_size / min(original)) for side in original)
        image = image.resize((width, height), Image.Resampling.BOX)
    if suffix is None or animated or smaller:
        suffix, data = _written(image, lossy=suffix == "jpg")
    sizes = {
        "width": image.width,
        "height": image.height,
        "original_width": original[0],
        "original_height": original[1],
    }
    return suffix, data, {**sizes, "sha256": hashlib.sha256(data).hexdigest()}


def _written(image: Image.Image, lossy: bool) -> tuple[str, bytes]:
    file = io.BytesIO()
    if lossy:
        image.save(file, "jpeg", quality=QUALITY, subsampling=0)
        return "jpg", file.getvalue()
    image.save(file, "png")
    return "png", file.getvalue()


def _place(name: str) -> float:
    """Where the hash of a name lies, from 0 to 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _keyed(entries: Sequence[Entry]) -> Iterator[Keyed]:
    """The entries with their keys: the name of the image, with its folders, as far as a tar may have it."""
    taken: set[str] = set()
    for entry in entries:
        name = str(PurePath(entry.name).with_suffix("")) if is_image(entry.name) else entry.name
        key = re.sub(r"[^\w/-]+", "_", unicodedata.normalize("NFC", name))
        key += "" if entry.number == 1 else f"-{entry.number}"
        if key in taken:  # cat.png beside cat.jpg
            key += "-" + hashlib.sha256(f"{entry.number} {entry.name}".encode()).hexdigest()[:8]
        taken.add(key)
        yield key, entry
