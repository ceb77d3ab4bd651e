"""Shards in img2dataset's layout, of rendered scenes: KEY.jpg, KEY.txt and KEY.json in 00000.tar, 00001.tar, ..."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image

from ediffi.evaluation.datasets.toybox import caption, render, sample_scene
from ediffi.evaluation.datasets.toybox.caption import NAMEABLE

Change = Callable[[dict[str, Any], int], dict[str, Any] | None]


def sample(shard: int, row: int, size: int = 64) -> dict[str, Any]:
    """A sample as img2dataset writes it; the JSON is indented, as theirs is."""
    rng = np.random.default_rng([shard, row])
    scene = sample_scene(rng, "train")
    text = caption(scene, rng, "long" if rng.random() < 0.3 else "short", NAMEABLE).text
    picture = io.BytesIO()
    Image.fromarray(render(scene, size)).save(picture, "JPEG", quality=95)
    key = f"{shard:05d}{row:04d}"
    metadata = {
        "url": f"https://example.com/{key}.jpg",
        "caption": text,
        "similarity": round(0.2 + 0.2 * float(rng.random()), 4),
        "AESTHETIC_SCORE": round(3 + 4 * float(rng.random()), 3),
        "key": key,
        "status": "success",
        "error_message": None,
        "width": size,
        "height": size,
        "original_width": 2 * size,
        "original_height": 3 * size,
        "exif": "{}",
        "sha256": hashlib.sha256(picture.getvalue()).hexdigest(),
    }
    return {
        "__key__": key,
        "jpg": picture.getvalue(),
        "txt": text.encode(),
        "json": json.dumps(metadata, indent=4).encode(),
    }


def write(folder: Path, shards: int, samples: int, size: int = 64, change: Change | None = None) -> list[str]:
    """Write shards, and return their paths; `change` may alter a sample, or leave it out."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{shard:05d}.tar" for shard in range(shards)]
    for shard, path in enumerate(paths):
        rows = (sample(shard, row, size) for row in range(samples))
        changed = (row if change is None else change(row, number) for number, row in enumerate(rows))
        write_rows(path, (row for row in changed if row is not None))
    return [str(path) for path in paths]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one shard."""
    with path.open("wb") as file, webdataset.TarWriter(file, encoder=False) as tar:
        for row in rows:
            tar.write(row)
