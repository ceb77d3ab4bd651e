"""The judge at the counts of the published datasets: seconds and peak memory of each step, each in its own process.

    OMP_NUM_THREADS=1 python benchmarks/evaluation_scale.py [--parts layouts numbers steps] [--share 1]
        [--output benchmarks/results/evaluation_scale.json]

layouts: COCO's validation set (40,504 images, 202,654 captions) and Visual Genome (108,077 images, 5.4 million regions)
in the layouts of their archives, with JPEGs of 48x36 pixels, written into a temporary folder and removed afterwards.
prepare checks the files, select opens the dataset and chooses the captions of a suite, reference decodes every image
and computes the statistics of 2048 numbers that cost nothing, and again reads them from the cache. So the networks and
the decoding of large photographs are left out: the rest is what ediffi adds to them.
numbers: every metric of 30,000 rows of 2048 numbers against 40,504, and the intervals, from rows on disk.
steps: of 64 photographs: hashing, which every command does to know its images; encoding the captions for five guidance
scales, once and each time (the shipped model); the wall time of a pass with 0 and with 2 processes that decode; and
what painting, writing and measuring an image take (the suite "toybox"), one after the other: doing them at once could
save no more than the latter two.

`--share 0.01` makes everything smaller, to try it.
"""

import argparse
import io
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from evaluation_speed import BATCH, WIDTH, WORDS, Pixels, inception, photographs, worked
from PIL import Image

from ediffi.evaluation.datasets import coco, visual_genome
from ediffi.evaluation.datasets.captioned import CaptionedImage, each_image, select
from ediffi.evaluation.datasets.catalogue import open_dataset, prepare
from ediffi.evaluation.datasets.toybox.dataset import Toybox
from ediffi.evaluation.images.found import find_images
from ediffi.evaluation.images.generate import generate, open_store
from ediffi.evaluation.judge import SQUARE, Judge, ReferenceImages
from ediffi.evaluation.metrics.features import load_extractor
from ediffi.evaluation.metrics.intervals import units_of
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.reference import read_reference, reference_key, reference_statistics
from ediffi.evaluation.metrics.rows import Rows
from ediffi.evaluation.metrics.summary import summarise
from ediffi.evaluation.suite import read_suite
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.cascade_generator import CascadeGenerator, EncodedPrompts
from ediffi.pipeline.options import SamplingOptions

SIDE, SHAPE, REGIONS, GENOME = 256, (48, 36), 50, 108_077
SELECTED = {"coco2014": 30_000, "visual-genome": 5_000}
STEPS = ("nothing", "prepare", "select", "reference", "again")


def jpegs() -> list[bytes]:
    """A few different small JPEGs."""
    rng, found = np.random.default_rng(0), []
    for _ in range(16):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*SHAPE[::-1], 3), dtype=np.uint8)).save(file, "jpeg")
        found.append(file.getvalue())
    return found


def write_coco(root: Path, share: float) -> None:
    """COCO's layout."""
    count, pictures = int(coco.PICTURES * share), jpegs()
    captions = int(coco.CAPTIONS * share)
    (root / coco.FOLDER).mkdir(parents=True)
    (root / "annotations").mkdir()
    images = [{"id": 7 * k, "file_name": f"COCO_val2014_{7 * k:012}.jpg"} for k in range(count)]
    for k, image in enumerate(images):
        (root / coco.FOLDER / str(image["file_name"])).write_bytes(pictures[k % 16])
        image |= {"width": SHAPE[0], "height": SHAPE[1], "license": 1, "date_captured": "2013-11-14 17:02:52"}
    rng = np.random.default_rng(0)
    rows = [
        {"id": k, "image_id": images[k % count]["id"], "caption": " ".join(rng.choice(WORDS, 10))}
        for k in range(captions)
    ]
    (root / "annotations" / coco.FILE).write_text(json.dumps({"images": images, "annotations": rows}))


def write_genome(root: Path, share: float) -> None:
    """Visual Genome's layout, with the mean number of regions of an image."""
    count, pictures = int(GENOME * share), jpegs()
    for folder in visual_genome.FOLDERS:
        (root / folder).mkdir(parents=True)
    known = []
    for k in range(count):
        folder = visual_genome.FOLDERS[k % 2]
        (root / folder / f"{k + 1}.jpg").write_bytes(pictures[k % 16])
        url = f"https://cs.stanford.edu/people/rak248/{folder}/{k + 1}.jpg"
        ids = {"image_id": k + 1, "coco_id": k if k % 2 else None, "flickr_id": None}
        known.append({**ids, "width": SHAPE[0], "height": SHAPE[1], "url": url})
    (root / visual_genome.IMAGES).write_text(json.dumps(known))
    rng = np.random.default_rng(0)
    phrases = [" ".join(rng.choice(WORDS, 5)) for _ in range(1000)]

    def entries() -> Iterator[str]:
        for k in range(count):
            sizes = rng.integers(1, SHAPE[1], (REGIONS, 4)).tolist()
            regions = [
                {"region_id": REGIONS * k + j, "width": w, "height": h, "image_id": k + 1}
                | {"phrase": phrases[(31 * k + 7 * j) % 1000], "y": y, "x": x}
                for j, (w, h, y, x) in enumerate(sizes)
            ]
            yield json.dumps({"id": k + 1, "regions": regions})

    with (root / visual_genome.REGIONS).open("w") as file:
        for k, entry in enumerate(entries()):
            file.write(("[" if k == 0 else ", ") + entry)
        file.write("]")


def step(name: str, dataset: str, root: Path) -> Callable[[], Any]:
    """What a step calls."""
    if name == "nothing":  # the memory of the libraries alone
        return lambda: None
    if name == "prepare":
        return partial(prepare, dataset, root)

    def chosen() -> None:
        items = open_dataset(dataset, root).items()
        select(items, min(SELECTED[dataset], len(items) // 10))

    if name == "select":
        return chosen
    opened = open_dataset(dataset, root)

    def reference() -> None:
        images = ReferenceImages(opened, each_image(opened.items()), SIDE)
        options = {"rule": SQUARE, "size": SIDE, "which": "all"}
        reference_statistics(images, Pixels(), root / "cache", options).features()

    return reference


class Noise:
    """Images of noise, so that rows differ."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        rng = np.random.default_rng((self.seed, index))
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((28, 28))
        return Image.fromarray((np.asarray(coarse) // 2 + rng.integers(0, 128, (28, 28, 3))).astype(np.uint8))

    def name(self, index: int) -> str:
        """Its number."""
        return str(index)

    def fingerprint(self) -> str:
        """Its length and seed."""
        return f"{self.count}-{self.seed}"


def numbers(root: Path, share: float) -> Callable[[], Any]:
    """What computes every metric of rows that are there already."""
    made, real = (Noise(int(n * share), seed) for seed, n in enumerate((30_000, coco.PICTURES)))
    key = reference_key(real, Pixels(), {})
    for images, folder in ((made, root / "made"), (real, root / "real")):
        measure(images, folder, MetricNetworks(Pixels()), batch_size=256)
    read_reference(root / "real", key)

    def every() -> None:
        reference = read_reference(root / "real", key)
        found = summarise(Rows.read(root / "made"), Pixels(), reference)
        found.intervals(units_of([str(k) for k in range(len(made))]))

    return every


def steps(count: int) -> dict[str, Any]:
    """Seconds of hashing, encoding, and of a pass with and without processes that decode."""
    with tempfile.TemporaryDirectory() as name:
        folder, scales = Path(name), 5
        (folder / "pictures").mkdir()
        captions = photographs(folder / "pictures", count)
        images = find_images(folder / "pictures", [str(k) for k in range(count)], "order")
        size = sum(path.stat().st_size for path in (folder / "pictures").iterdir())
        start = time.perf_counter()
        images.fingerprint()
        hashing = time.perf_counter() - start
        cascade, options = Cascade.from_pretrained("toybox", "cpu"), SamplingOptions()
        batches = [captions[start : start + BATCH] for start in range(0, count, BATCH)]
        once, each = EncodedPrompts(cascade, options), cascade.encode
        encode = {"once": partial(_encode, once, batches, scales), "each": partial(_encode, each, batches, scales)}
        encoding = {name: median(times) for name, times in worked({"each": encode["each"]}, 1)[0].items()}
        start = time.process_time()
        encode["once"]()
        encoding["once"] = time.process_time() - start
        networks = MetricNetworks(load_extractor(weights=inception(folder)))
        walls = {}
        for workers in (0, 2):
            start = time.perf_counter()
            measure(images, folder / f"rows{workers}", networks, batch_size=BATCH, num_workers=workers)
            walls[workers] = time.perf_counter() - start
    found = {"pictures": count, "hash_MB_s": size / 2**20 / hashing, "encode": encoding, "pass_wall": walls}
    return found | {"shares_ms": shares(32)}


class Clocked:
    """A generator that counts the seconds that it works."""

    def __init__(self, generator: CascadeGenerator) -> None:
        self.generator, self.settings, self.seconds = generator, generator.settings, 0.0

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """The images."""
        start = time.process_time()
        images = self.generator(prompts, first_index)
        self.seconds += time.process_time() - start
        return images


def shares(count: int) -> dict[str, float]:
    """Milliseconds of the processor for each image of the shipped suite and model: painting, writing, measuring."""
    suite = read_suite("toybox", count=count)
    dataset = Toybox(**suite.dataset_options)
    items = select(dataset.items(), count, suite.seed)
    captions = [item.caption for item in items]
    painting = Clocked(CascadeGenerator(Cascade.from_pretrained("toybox", "cpu").up_to("sr64"), SamplingOptions()))
    with tempfile.TemporaryDirectory() as name:
        store = open_store(Path(name) / "images", count)
        start = time.process_time()
        generate(painting, captions, store, batch_size=8)
        both = time.process_time() - start
        judge = Judge(suite, dataset, items, Path(name) / "cache")
        own = partial(measured_by, dataset, items)
        start = time.process_time()
        measure(store, Path(name) / "rows", judge.networks, captions=captions, measure=own)
        last = time.process_time() - start
    seconds = {"painting": painting.seconds, "writing": both - painting.seconds, "measuring": last}
    return {step: 1000 * value / count for step, value in seconds.items()}


def measured_by(
    dataset: Toybox, items: Sequence[CaptionedImage], index: int, image: Image.Image
) -> Mapping[str, float]:
    """What the dataset measures of an image."""
    return dataset.measure(items[index], image)


def _encode(encode: Callable[[Sequence[str]], Any], batches: Sequence[Sequence[str]], scales: int) -> None:
    for _ in range(scales):
        for batch in batches:
            encode(batch)


def timed(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a call, and the peak memory of this process in MB."""
    wall, worked = time.perf_counter(), time.process_time()
    call()
    found = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - worked}
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    return {**found, "peak_MB": int(peak[1]) / 1024}


def child(*arguments: str) -> dict[str, float]:
    """A step in a process of its own."""
    command = [sys.executable, __file__, "--child", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def layouts(share: float) -> dict[str, Any]:
    """All of `STEPS` of both datasets."""
    found: dict[str, Any] = {}
    for name, write in (("coco2014", write_coco), ("visual-genome", write_genome)):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / name
            write(root, share)
            found[name] = {step: child(step, name, str(root)) for step in STEPS}
    return found


def show(report: dict[str, Any]) -> None:
    """Print what was measured."""
    rows = [
        (f"{name}, {step}", row) for name, steps in report.get("layouts", {}).items() for step, row in steps.items()
    ]
    for name, row in [*rows, *([("numbers", report["numbers"])] if "numbers" in report else [])]:
        print(f"{name:28} {row['wall_s']:8.1f} s, {row['cpu_s']:8.1f} s of the processor, {row['peak_MB']:7.0f} MB")
    if row := report.get("steps"):
        encode = ", ".join(f"{name} {value:.2f} s" for name, value in row["encode"].items())
        walls = ", ".join(f"{workers} processes {value:.1f} s" for workers, value in row["pass_wall"].items())
        print(f"{row['pictures']} pictures; hashing {row['hash_MB_s']:.0f} MB/s; encoding for 5 scales: {encode}")
        print(f"  a pass, decoded by {walls}")
        steps = ", ".join(f"{name} {value:.1f}" for name, value in row["shares_ms"].items())
        print(f"  ms for each image of the suite toybox: {steps}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["layouts", "numbers", "steps"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--share", type=float, default=1.0, help="of the published counts")
    parser.add_argument("--output", type=Path, help="write the report as JSON too")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not 0.001 <= args.share <= 1:
        parser.error(f"--share must be between 0.001 and 1, got {args.share}")
    torch.set_num_threads(1)
    if args.child:
        name, dataset, root = args.child
        call = numbers(Path(root), float(dataset)) if name == "numbers" else step(name, dataset, Path(root))
        print(json.dumps(timed(call)))
        return
    report: dict[str, Any] = {"share": args.share, "width": WIDTH, "torch": torch.__version__}
    report["machine"] = platform.machine()
    if "layouts" in args.parts:
        report["layouts"] = layouts(args.share)
    if "numbers" in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            report["numbers"] = child("numbers", str(args.share), folder)
    if "steps" in args.parts:
        report["steps"] = steps(64)
    show(report)
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
