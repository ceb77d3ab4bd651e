"""How fast `ediffi embed` is on a Ray cluster, beside the processes of one machine: the same shards, workers and bytes.

    OMP_NUM_THREADS=1 python benchmarks/ray_embed.py [--rounds 3] [--workers 2] [--shards 64] [--samples 32]

Samples a second from the first finished shard to the last, so without the start of workers and encoders, which
is given apart: the seconds to the first shard. The encoders are Toybox's, so small that what surrounds them shows most.
The two take turns; medians.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from ediffi.data.index import INDEX
from ediffi.data.shards import Sample, write_shards
from ediffi.evaluation.datasets.toybox import caption, render, sample_scene
from ediffi.evaluation.datasets.toybox.caption import NAMEABLE
from ediffi.io.files import sha256

ENGINES = {"processes": [], "ray": ["--engine", "ray", "--address", "local"]}


def samples(count: int, size: int = 64) -> list[Sample]:
    """Scenes with captions, without embeddings."""
    made = []
    for index in range(count):
        rng = np.random.default_rng(index)
        scene = sample_scene(rng, "train")
        text = caption(scene, rng, "short", NAMEABLE).text
        made.append(Sample(f"{index:06d}", Image.fromarray(render(scene, size)), text, {}, {}))
    return made


def embed(shards: Path, out: Path, engine: str, workers: int) -> tuple[float, float]:
    """Seconds to the first finished shard, and from the first to the last."""
    command = [sys.executable, "-m", "ediffi", "embed", "--shards", str(shards), "--out", str(out)]
    start = time.time()
    subprocess.run(
        [*command, "--encoders", "toybox", "--device", "cpu", "--devices", str(workers), *ENGINES[engine]],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    times = sorted(path.stat().st_mtime for path in out.glob("*.tar"))
    return times[0] - start, times[-1] - times[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("rounds", 3), ("workers", 2), ("shards", 64), ("samples", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as scratch:
        source, digests = Path(scratch) / "source", set()
        write_shards(source, iter(samples(options.shards * options.samples)), options.samples, {})
        (source / INDEX).unlink()
        for number in range(options.rounds):
            for engine, rounds in found.items():
                out = Path(scratch) / f"{engine}-{number}"
                rounds.append(embed(source, out, engine, options.workers))
                digests.add(tuple(sha256(path) for path in sorted(out.glob("*.tar"))))
        if len(digests) != 1:
            raise SystemExit("the engines have written different bytes")
    count = (options.shards - 1) * options.samples
    rates = {engine: median(count / last for _, last in rounds) for engine, rounds in found.items()}
    starts = {engine: median(first for first, _ in rounds) for engine, rounds in found.items()}
    ratios = [a[1] / b[1] for a, b in zip(*found.values(), strict=True)]
    result = {**vars(options), "samples_per_second": rates, "seconds_to_first": starts, "ray_over_processes": ratios}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
