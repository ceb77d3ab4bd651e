"""What can be wrong with an evaluation on disk: rows, pictures, settings, results."""

import json
import pickle
import random
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.evaluation.images import claim
from ediffi.evaluation.images.numbered import ImageFolder
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.results import Point, Results
from tests.faults.harness import FAMILIES, Attempt, Family, family
from tests.faults.mutations import changed, damage

COUNT, SIZE = 9, 16
SETTINGS = {"seed": 3, "stages": {"base": {"sampler": "euler", "steps": 2}}, "prompts": ["a", "b"], "guidance": 1.5}


class Columns:
    """Features of an image by its pixels alone."""

    name, layer, width = "columns", "mean", 3 * SIZE
    protocol = {"name": "columns", "layer": "mean", "weights": "", "resize": "", "library": ""}  # noqa: RUF012

    def prepare(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mean(2).flatten(1)


def brightness(index: int, image: Image.Image) -> dict[str, float]:
    return {"mean": float(np.asarray(image).mean()), "even": float("nan") if index % 2 else 1.0}


def measured(folder: Path) -> list[Any]:
    """The same command on a folder: it measures what is missing, and makes numbers of all rows."""
    images = ImageFolder(folder / "images", [f"{number}.png" for number in range(COUNT)])
    measure(images, folder / "rows", MetricNetworks(Columns()), measure=brightness, batch_size=4)
    rows = Rows.read(folder / "rows")
    moments = rows.moments()
    own = [values.tobytes() for values in rows.measured().values()]
    return [moments.mean.tolist(), moments.cov.tolist(), rows.features().tolist(), own, list(rows.broken)]


@cache
def whole() -> tuple[Path, list[Any]]:
    """An evaluation that is done, and its numbers; not to be written to."""
    folder = Path(tempfile.mkdtemp(prefix="faults-rows-"))
    (folder / "images").mkdir()
    for number, (scene, _) in enumerate(prompts(seed=3, count=COUNT)):
        Image.fromarray(render(scene, SIZE)).save(folder / "images" / f"{number}.png")
    found = measured(folder)
    claim.record_settings(folder, SETTINGS)
    metrics = {"fid": 12.5, "kid_mean": 0.003, "clip_score": float("nan")}
    intervals = {"fid": (11.0, 13.0)}
    points = [
        Point(f"guidance-{w}", COUNT, metrics, {"guidance_scale": w, "nfe": 9}, ("a notice",), intervals)
        for w in (1, 3)
    ]
    suite = {"name": "toybox", "dataset": "toybox", "count": COUNT, "image_size": SIZE}
    Results("ours", suite, {"selection": {"sha256": "ab" * 32, "count": COUNT}}, points).write(folder)
    return folder, found


def copied(scratch: Path) -> tuple[Path, Attempt]:
    place, expected = whole()
    folder = Path(shutil.copytree(place, scratch / "evaluation"))
    return folder, lambda: None if measured(folder) == expected else "other numbers"


def rows_file(rng: random.Random, folder: Path) -> Path:
    return rng.choice(sorted(path for path in (folder / "rows").iterdir() if path.is_file()))


def _damaged(kind: str) -> Family:
    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        folder, attempt = copied(scratch)
        damage(rng, rows_file(rng, folder), kind)
        return attempt

    return prepare


for _kind in ("bits", "cut", "zeros"):
    FAMILIES[f"rows {_kind}"] = _damaged(_kind)


@family
def rows_exchanged(rng: random.Random, scratch: Path) -> Attempt:
    """Gone, a pickle, rows that changed places, another row's values, or one that is said not to be measured."""
    folder, attempt = copied(scratch)
    path = rng.choice(sorted((folder / "rows").glob("*.npy")))
    kind, rows = rng.choice(["gone", "pickle", "places", "again", "dtype", "shape", "value"]), np.load(path)
    axis = rows.T if path.stem == "hashes" else rows
    if kind == "gone":
        path.unlink()
    elif kind == "pickle":
        canary = str(scratch / "canary")

        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return open, (canary, "w")

        held = np.array([Evil()], dtype=object)
        rng.choice([lambda: path.write_bytes(pickle.dumps(Evil())), lambda: np.save(path, held, allow_pickle=True)])()
    elif kind in ("dtype", "shape"):
        np.save(path, rows.astype(np.float16) if kind == "dtype" else rows.reshape(-1)[:-1])
    else:
        one, two = rng.sample(range(len(axis)), 2)
        axis[one] = {"places": axis[two], "again": axis[two], "value": 0}[kind]
        np.save(path, rows)
    return attempt


@family
def rows_settings(rng: random.Random, scratch: Path) -> Attempt:
    folder, attempt = copied(scratch)
    path = folder / "rows" / "pass.json"
    content = changed(rng, json.loads(path.read_text()), rng.random() < 0.3)
    path.write_text(json.dumps(content, default=str))
    return attempt


@family
def pictures_exchanged(rng: random.Random, scratch: Path) -> Attempt:
    """The images that were measured are others now, of the same names and sizes."""
    folder, attempt = copied(scratch)
    one, two = rng.sample(sorted((folder / "images").iterdir()), 2)
    kind = rng.choice(["swapped", "copied", "pixel", "bits", "cut", "gone"])
    first, second = one.read_bytes(), two.read_bytes()
    if kind in ("swapped", "copied"):
        one.write_bytes(second)
        two.write_bytes(first if kind == "swapped" else second)
    elif kind == "pixel":
        pixels = np.array(Image.open(one))
        pixels[rng.randrange(SIZE), rng.randrange(SIZE)] ^= 1
        Image.fromarray(pixels).save(one)
    elif kind == "gone":
        one.unlink()
    else:
        damage(rng, one, kind)
    return attempt


def _read_again(name: str, kind: str) -> Family:
    """Results or settings, whose text or values are changed."""

    def read(folder: Path) -> Any:
        if name == "run":
            return claim.record_settings(folder, SETTINGS)
        results = Results.read(folder)
        return repr(results)

    def prepare(rng: random.Random, scratch: Path) -> Attempt:
        folder, _ = copied(scratch)
        expected, path = read(folder), folder / f"{name}.json"
        if kind == "values":
            content = changed(rng, json.loads(path.read_text()), rng.random() < 0.3)
            path.write_text(json.dumps(content, default=str))
        else:
            damage(rng, path, rng.choice(["bits", "cut", "zeros"]))
        return lambda: None if read(folder) == expected else "other content"

    return prepare


for _name in ("results", "run"):
    for _kind in ("values", "text"):
        FAMILIES[f"{_name}.json {_kind}"] = _read_again(_name, _kind)
