"""The judge's speed against the libraries it agrees with, as ratios within one run; and its memory.

    OMP_NUM_THREADS=1 python benchmarks/evaluation_speed.py [--parts distance pass memory] [--pictures 48]
        [--repeats 3] [--clips ViT-B-32 ViT-S-32] [--output benchmarks/results/evaluation_speed.json]

distance: the Fréchet distance of given moments, 2048 numbers a row, against torchmetrics', torch-fidelity's and
clean-fid's; of 5000 rows, and of 500, where the covariances have not full rank.
pass: Inception features, their moments, and CLIP scores of 640x480 JPEGs and captions of COCO's length. Ours is one
pass. The libraries run one after the other, each with its own decoding, as they are called: torch-fidelity for the
features and moments, torchmetrics' CLIPScore with transformers' CLIP for the scores. Both CLIPs have one shape;
weights are random, which the time does not see. The distance is left out, and added for numbers of pictures that suites
have, if both parts are measured.
memory: peak memory of a process that measures n and 4n pictures (features of 2048 numbers, CLIP score, moments).

One process, no loader processes; seconds are those that the processor worked, which a busy machine moves least.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from attention_kernel import ratio
from PIL import Image
from torch import Tensor, nn

from ediffi.evaluation.images.numbered import ImageFolder
from ediffi.evaluation.metrics.clip_score import ClipScorer, load_scorer
from ediffi.evaluation.metrics.features import load_extractor
from ediffi.evaluation.metrics.frechet import Moments, frechet_distance
from ediffi.evaluation.metrics.passes import MetricNetworks, measure
from ediffi.evaluation.metrics.rows import Rows

WIDTH, BATCH = 2048, 16
WORDS = ("a", "man", "riding", "wave", "on", "top", "of", "surfboard", "the", "two", "dogs", "sitting", "next", "to")
TOYBOX = Path(__file__).resolve().parents[1] / "ediffi" / "weights" / "toybox" / "encoders" / "clip"
AIMS = {"torchmetrics": 0.5, "clean-fid": 0.15}
SUITES = (500, 5000, 30000)


def worked(calls: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of the processor for each call, in A B A B order, after one round that warms up; and what they return."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    values: dict[str, Any] = {}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            values[name] = call()
            if round_ > 0:
                seconds[name].append(time.process_time() - start)
    return seconds, values


def moments(count: int, seed: int) -> Moments:
    """Of rows with a spectrum over two decades, as a network's features have."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((count, 8)) @ rng.standard_normal((8, WIDTH))
    rows = rng.standard_normal((count, WIDTH)) * 10 ** np.linspace(0, -2, WIDTH) + 0.05 * common
    return Moments.zero(WIDTH).update(torch.from_numpy(rows))


def distance(repeats: int) -> list[dict[str, Any]]:
    """Two rows: full rank and not."""
    from cleanfid.fid import frechet_distance as clean_fid
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    rows = []
    for count in (5000, 500):
        a, b = moments(count, 1), moments(count, 2)
        parts = a.mean, a.cov, b.mean, b.cov
        arrays = [part.numpy() for part in parts]
        stats = [{"mu": mean, "sigma": cov} for mean, cov in (arrays[:2], arrays[2:])]

        def torch_fidelity(stats: list[Any] = stats) -> float:
            return next(iter(fid_statistics_to_metric(*stats, verbose=False).values()))

        calls: dict[str, Callable[[], Any]] = {
            "ours": partial(frechet_distance, *parts),
            "torchmetrics": partial(_compute_fid, *parts),
            "torch-fidelity": torch_fidelity,
            "clean-fid": partial(clean_fid, *arrays),
        }
        seconds, values = worked(calls, repeats)
        rows.append(
            {
                "rows": count,
                "seconds": {name: median(times) for name, times in seconds.items()},
                "ratio": {name: ratio(seconds["ours"], seconds[name]) for name in calls if name != "ours"},
                "difference": {name: abs(values["ours"] - float(values[name])) / values["ours"] for name in values},
            }
        )
    return rows


def photographs(folder: Path, count: int, size: tuple[int, int] = (640, 480)) -> list[str]:
    """JPEGs that decode as photographs do: smooth areas, edges and some grain, about 70 kB at 640x480."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        edges = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.NEAREST)
        mixed = 0.7 * np.asarray(coarse) + 0.3 * np.asarray(edges) + rng.normal(0, 4, (size[1], size[0], 3))
        Image.fromarray(mixed.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=90)
    return [" ".join(rng.choice(WORDS, rng.integers(8, 14))) for _ in range(count)]


def inception(folder: Path) -> Path:
    """A file of random weights with Inception's names and shapes."""
    from torchvision.models import inception_v3

    path = folder / "inception.pth"
    model = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    torch.save(model.state_dict(), path)
    return path


def our_clip(shape: str) -> ClipScorer:
    """One of open_clip's networks with random weights."""
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    model = open_clip.CLIP(**open_clip.get_model_config(shape)).eval().requires_grad_(False)
    transform = image_transform_v2(PreprocessCfg(), is_train=False)
    width, protocol = model.visual.output_dim, {"name": f"{shape}, random"}
    return ClipScorer(model, open_clip.get_tokenizer(shape), transform, width, protocol, torch.device("cpu"))


class Bare(nn.Module):
    """transformers 5 wraps embeddings, and torchmetrics 1.9 does not unwrap them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pictures: Tensor) -> Tensor:
        """The embeddings alone."""
        return self.model.get_image_features(pictures).pooler_output

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The embeddings alone."""
        return self.model.get_text_features(ids, mask).pooler_output


def their_clip(shape: str) -> tuple[nn.Module, Any]:
    """transformers' CLIP of the same shape, with random weights, and its processor, with open_clip's words."""
    import open_clip
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    words = open_clip.tokenizer.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(token, token): number for token, number in words.encoder.items()}
    pairs = [pair for pair, _ in sorted(words.bpe_ranks.items(), key=lambda item: item[1])]
    ends = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=pairs, bos_token="<|startoftext|>", **ends)
    processor = CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer)
    ours = open_clip.get_model_config(shape)
    vision, text = ours["vision_cfg"], ours["text_cfg"]

    def tower(settings: dict[str, Any], heads: int) -> dict[str, Any]:
        width = settings["width"]
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": settings["layers"],
            "num_attention_heads": heads,
            "hidden_act": "gelu",
        }

    config = CLIPConfig(
        vision_config=tower(vision, vision["width"] // 64) | {"image_size": 224, "patch_size": vision["patch_size"]},
        text_config=tower(text, text["heads"]),
        projection_dim=ours["embed_dim"],
    )
    return Bare(CLIPModel(config).eval().requires_grad_(False)), processor


def one_pass(folder: Path, captions: Sequence[str], networks: MetricNetworks, out: Path) -> None:
    """Ours: features, moments and scores."""
    rows = tempfile.mkdtemp(dir=out)
    names = sorted(path.name for path in folder.glob("*.jpg"))
    measure(ImageFolder(folder, names), Path(rows), networks, captions=captions, batch_size=BATCH)
    done = Rows.read(Path(rows))
    done.moments()
    done.scores().mean()


def features_and_moments(folder: Path, extractor: Any) -> None:
    """torch-fidelity's, as `calculate_metrics` takes them."""
    from torch_fidelity.metric_fid import fid_features_to_statistics
    from torch_fidelity.utils import extract_featuresdict_from_input_id_cached

    settings = {"cuda": False, "batch_size": BATCH, "save_cpu_ram": True, "cache": False, "verbose": False}
    found = extract_featuresdict_from_input_id_cached(1, extractor, input1=str(folder), **settings)
    fid_features_to_statistics(found["2048"])


def clip_scores(folder: Path, captions: Sequence[str], metric: Any) -> None:
    """torchmetrics', over batches that torch-fidelity's data set decodes."""
    from torch.utils.data import DataLoader
    from torch_fidelity.datasets import ImagesPathDataset

    metric.reset()
    loader = DataLoader(ImagesPathDataset(sorted(folder.glob("*.jpg"))), batch_size=BATCH)
    for number, pictures in enumerate(loader):
        with torch.no_grad():
            metric.update(pictures, list(captions[number * BATCH : number * BATCH + len(pictures)]))
    metric.compute()


def passes(count: int, repeats: int, shape: str) -> dict[str, Any]:
    """One pass against the two libraries, and against each alone."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.multimodal import CLIPScore

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pictures").mkdir()
        captions, weights = photographs(folder / "pictures", count), inception(folder)
        networks = MetricNetworks(load_extractor(weights=weights), our_clip(shape))
        extractor = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)
        )
        metric = CLIPScore(model_name_or_path=partial(their_clip, shape))
        calls = {
            "ours": partial(one_pass, folder / "pictures", captions, networks, folder),
            "torch-fidelity": partial(features_and_moments, folder / "pictures", extractor),
            "torchmetrics": partial(clip_scores, folder / "pictures", captions, metric),
        }
        seconds, _ = worked(calls, repeats)
    both = [a + b for a, b in zip(seconds["torch-fidelity"], seconds["torchmetrics"], strict=True)]
    ratios = [a / b for a, b in zip(seconds["ours"], both, strict=True)]
    return {
        "clip": shape,
        "pictures": count,
        "seconds": {name: median(times) for name, times in seconds.items()},
        "ratio": median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def with_distance(distances: dict[str, float], found: dict[str, Any]) -> dict[int, float]:
    """FID and CLIP score of so many pictures, distance and all: ours / the libraries."""
    each = {name: seconds / found["pictures"] for name, seconds in found["seconds"].items()}
    ratios = {}
    for count in SUITES:
        theirs = count * (each["torch-fidelity"] + each["torchmetrics"]) + distances["torch-fidelity"]
        ratios[count] = (count * each["ours"] + distances["ours"]) / theirs
    return ratios


class Pixels:
    """Features of 2048 numbers for nothing: the first bytes of a picture."""

    name, layer, width = "pixels", "bytes", WIDTH
    protocol = {"name": "pixels", "layer": "bytes", "weights": "", "resize": "none", "library": ""}  # noqa: RUF012

    def prepare(self, image: Image.Image) -> Tensor:
        """The bytes."""
        return torch.from_numpy(np.array(image))

    def __call__(self, pictures: Tensor) -> Tensor:
        """As many as are wanted."""
        return pictures.flatten(1)[:, :WIDTH].float()


class Repeated:
    """A few pictures, many times."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.count = count
        self.images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(16)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Image.Image:
        return self.images[index % 16]

    def name(self, index: int) -> str:
        """Its number."""
        return str(index)

    def fingerprint(self) -> str:
        """Its length."""
        return str(self.count)


def peak(count: int) -> None:
    """Measure pictures in this process, and print its peak memory in MB."""
    torch.set_num_threads(1)
    clip = load_scorer(path=str(TOYBOX))
    with tempfile.TemporaryDirectory() as folder:
        networks = MetricNetworks(Pixels(), clip)
        measure(Repeated(count), Path(folder), networks, captions=["a red circle"] * count, batch_size=64)
        rows = Rows.read(Path(folder))
        rows.moments()
        rows.scores().mean()
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory at the fork
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)  # type: ignore[index]


def memory(count: int) -> dict[str, Any]:
    """Peak memory of a process for a few, n and 4n pictures."""
    peaks = {}
    for n in (BATCH, count, 4 * count):
        command = [sys.executable, __file__, "--peak", str(n)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        peaks[n] = float(done.stdout.split()[-1])
    return {"MB": peaks, "features_MB": 4 * count * WIDTH * 4 / 2**20, "ratio": peaks[4 * count] / peaks[count]}


def show(report: dict[str, Any]) -> None:
    """Print what was measured, against what was aimed at."""
    for row in report.get("distance", []):
        aims = {name: f" (aim {AIMS[name]})" if name in AIMS else "" for name in row["ratio"]}
        ratios = ", ".join(f"{name} {value:.3f}{aims[name]}" for name, value in row["ratio"].items())
        apart = ", ".join(f"{name} {value:.1e}" for name, value in row["difference"].items() if name != "ours")
        print(f"distance, {row['rows']} rows: {row['seconds']['ours']:.2f} s; time against {ratios}; apart by {apart}")
    for row in report.get("pass", []):
        low, high = row["range"]
        seconds = ", ".join(f"{name} {1000 * value / row['pictures']:.0f}" for name, value in row["seconds"].items())
        print(
            f"pass over {row['pictures']} pictures, {row['clip']}: {row['ratio']:.2f} ({low:.2f} to {high:.2f}) "
            f"of the libraries' time (aim 0.75); ms a picture: {seconds}"
        )
        if row.get("with distance"):
            print("  with the distance: " + ", ".join(f"{n} {value:.2f}" for n, value in row["with distance"].items()))
    if row := report.get("memory"):
        peaks = ", ".join(f"{n} pictures {value:.0f} MB" for n, value in row["MB"].items())
        print(f"memory: {peaks}; features of the last on disk: {row['features_MB']:.0f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["distance", "pass", "memory"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--clips", nargs="+", default=["ViT-B-32", "ViT-S-32"], help="open_clip's names")
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="write the report as JSON too")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        peak(args.peak)
        return
    if min(args.pictures, args.repeats, args.threads) < 1:
        parser.error("--pictures, --repeats and --threads must be at least 1")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    report: dict[str, Any] = {"threads": args.threads, "torch": torch.__version__, "machine": platform.machine()}
    if "distance" in args.parts:
        report["distance"] = distance(args.repeats)
    if "pass" in args.parts:
        report["pass"] = [passes(args.pictures, args.repeats, shape) for shape in args.clips]
        for row in report["pass"] if "distance" in report else []:
            row["with distance"] = with_distance(report["distance"][0]["seconds"], row)
    if "memory" in args.parts:
        report["memory"] = memory(2000)
    show(report)
    if args.output:
        args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
