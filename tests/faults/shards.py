"""What can be wrong in shards and their index."""

import hashlib
import io
import itertools
import json
import random
import shutil
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ediffi.data.index import write_index
from ediffi.data.module import ShardData
from tests.faults.harness import FAMILIES, Attempt, Family, family
from tests.faults.mutations import changed, damage
from tests.faults.runs import SIZE, WIDTH, shards

BATCHES = 6
"""An epoch."""


class SkippedError(ValueError):
    """Samples were left out, and named."""


def seen(folder: Path) -> list[tuple[Any, ...]]:
    """What a run sees of an epoch. SkippedError: samples were left out, as the first one's sentence says."""
    data = ShardData(folder, folder, SIZE, batch_size=2)
    found = []
    for batch in itertools.islice(data.train_dataloader(), BATCHES):
        if getattr(batch, "skipped", ()):
            raise SkippedError(batch.skipped[0])
        tokens = batch.cond.sources["t5"].tokens
        if not (tokens.isfinite().all() and tokens.shape[-1] == WIDTH):
            return [("embeddings that are not finite",)]
        found.append((batch.keys, batch.captions, batch.images.numpy().tobytes(), tokens.float().numpy().tobytes()))
    return found


@cache
def expected() -> list[tuple[Any, ...]]:
    return seen(shards())


def compared(folder: Path) -> Attempt:
    wanted = expected()
    return lambda: None if seen(folder) == wanted else "other batches"


def copied(scratch: Path) -> Path:
    return Path(shutil.copytree(shards(), scratch / "shards"))


def _damaged(kind: str) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        folder = copied(scratch)
        damage(rng, rng.choice(sorted(folder.glob("*.tar"))), kind)
        return compared(folder)

    return prepare


for _kind in ("bits", "cut", "zeros"):
    FAMILIES[f"shard {_kind}"] = _damaged(_kind)


@family
def shards_exchanged(rng: random.Random, scratch: Path) -> Attempt:
    folder = copied(scratch)
    one, two = rng.sample(sorted(folder.glob("*.tar")), 2)
    kind = rng.choice(["swapped", "copied", "gone", "other"])
    if kind == "swapped":
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
    elif kind == "copied":
        shutil.copy(one, two)
    elif kind == "gone":
        one.unlink()
    else:
        shutil.copy(shards(rng.randrange(1, 4)) / one.name, one)
    return compared(folder)


def _index(remove: bool) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        folder = copied(scratch)
        index = json.loads((folder / "index.json").read_text())
        if rng.random() < 0.5:  # an index of before there were digests
            index.pop("sha256", None)  # older versions write none
        content = changed(rng, index, remove)
        (folder / "index.json").write_text(json.dumps(content, default=str))
        return compared(folder)

    return prepare


FAMILIES["index types"], FAMILIES["index missing"] = _index(False), _index(True)


@family
def index_text(rng: random.Random, scratch: Path) -> Attempt:
    folder = copied(scratch)
    text = (folder / "index.json").read_text()
    start = rng.randrange(len(text))
    worse = [text[:start], "[" * 10**5, text + text, text.replace(":", "", 1), "", "null", "[]", "\0", "\xff"]
    (folder / "index.json").write_text(rng.choice(worse), encoding="latin-1")
    return compared(folder)


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        for entry in tar:
            file = tar.extractfile(entry)
            assert file is not None
            yield entry.name, file.read()


@family
def sample_broken_and_listed(rng: random.Random, scratch: Path) -> Attempt:
    """A sample of a shard whose hash is right again: whoever wrote it lies, consistently."""
    folder = copied(scratch)
    path = rng.choice(sorted(folder.glob("*.tar")))
    members = dict(_members(path))
    name = rng.choice(sorted(name for name in members if not name.endswith(".json")))
    if name.endswith(".safetensors"):
        state = safetensors.torch.load(members[name])
        tokens = state["t5.tokens"]
        tokens.view(-1)[rng.randrange(tokens.numel())] = rng.choice([float("nan"), float("inf")])
        wrong = [{"t5.tokens": tokens}, {"t5.tokens": tokens[0]}, {"t5.tokens": tokens[:, :-1].contiguous()}, {}]
        wrong += [{"t5.tokens": torch.ones(3, WIDTH, dtype=torch.int64)}, {"other.tokens": torch.ones(3, WIDTH)}]
        wrong += [{"t5.tokens": torch.ones(0, WIDTH)}]
        members[name] = rng.choice([safetensors.torch.save(rng.choice(wrong)), members[name][:9], b"", b"x" * 99])
    elif name.endswith(".png"):
        cut = members[name][: rng.randrange(len(members[name]) - 12)]
        members[name] = rng.choice([cut, b"", b"x" * 99, members[name].replace(b"IDAT", b"IDAX")])
    else:
        members[name] = rng.choice([b"\xff\xfe\xfa", b"\xed\xa0\x80"])
    if rng.random() < 0.2:
        del members[name]
    with tarfile.open(path, "w") as tar:
        for one, data in members.items():
            info = tarfile.TarInfo(one)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    index = json.loads((folder / "index.json").read_text())
    for row in index["shards"]:
        if row["file"] == path.name:
            row["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_index(folder / "index.json", index.pop("shards"), index)
    return compared(folder)
