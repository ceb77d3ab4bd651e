"""What experts bring on Toybox: one model against two and three experts at equal samples seen, over several seeds.

    python benchmarks/ensemble_gain.py [--output runs/ensemble_gain] [--seeds 0 1 2] [--trunk-steps 1000]
        [--arm-steps 500] [--batch-size 64] [--channels 32] [--prompts 200]

One trunk is trained on all noise, and from it, for each seed and for `arm-steps` more steps in all: the same single
model; two experts, (1, 0) and (1, 1); three, (2, 0), (2, 3) and their complement. Steps are shared out by the share of
the noise, so every noise level is trained on equally often in all three, under the same schedule of the learning rate.
The seed draws order, noise and dropout. What is finished is skipped, what was cut goes on. Needs the shards that
recipes/toybox/base.yaml names.

Measured on held-out scenes: the loss in eight bands of the training noise, on the same noise for all; how often the
oracle finds everything right in the 64² pictures (through the shipped sr64 stage); and the Fréchet distance of these
pictures to the true ones in the features of the shipped CLIP. Intervals are 95 %, Student's t over the seeds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats

from ediffi.data.index import Index
from ediffi.diffusion.noise import ROOT, Complement, Interval, NoiseInterval
from ediffi.evaluation.datasets.toybox import prompts, render
from ediffi.io.images import to_tensor
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import load_cascade
from ediffi.pipeline.stage import Sampling
from ediffi.toybox.score import judge
from ediffi.training.growth.compose import StageRecipe
from ediffi.training.growth.grow import grow
from ediffi.training.growth.schedule import GrowthNode, TrunkStage
from reproduction.judging import BANDS, band_losses

RECIPE = Path("recipes/toybox/base.yaml")
LOW, HIGH = Interval(2, 0), Interval(2, 3)
ARMS = {
    "single": (ROOT,),
    "two experts": ROOT.children,
    "three experts": (LOW, Complement((LOW, HIGH)), HIGH),
}
TEST = Path("data/toybox/test64")
SAMPLING = Sampling(num_inference_steps=20, guidance_scale=3.0, sigma_min=0.01, sigma_max=20.0)


def settings(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """What every run changes in the recipe."""
    return {
        "seed_everything": seed,
        "model.seed": seed,
        "data.seed": seed,
        "model.denoiser.init_args.channels": options.channels,
        "model.denoiser.init_args.norm_groups": max(1, options.channels // 16),
        "data.batch_size": options.batch_size,
        "trainer.precision": options.precision,
        "trainer.val_check_interval": options.trunk_steps,
        "trainer.callbacks.1.init_args.every_n_train_steps": options.checkpoint_every,
        "trainer.enable_model_summary": False,
    }


def train(options: argparse.Namespace) -> dict[int, dict[str, Path]]:
    """Train the trunk and the arms of each seed, and return their model folders."""
    stage = StageRecipe("base", 16, sampling=SAMPLING)
    trunk = options.output / "trunk"
    grow(trunk, RECIPE, [node(ROOT, options.trunk_steps)], stage, overrides=settings(0, options))
    branch = {
        "model.optimizer.init_args.lr": options.learning_rate,
        "model.lr_scheduler.init_args.max_lr": options.learning_rate,
    }
    folders: dict[int, dict[str, Path]] = {}
    for seed in options.seeds:
        folders[seed] = {"trunk": trunk / "stage"}
        for name, regions in ARMS.items():
            nodes = [node(region, round(options.arm_steps * share(region))) for region in regions]
            place = options.output / f"seed{seed}" / name.replace(" ", "_")
            start = TrunkStage(str(trunk / "stage"), "base")
            grow(place, RECIPE, nodes, stage, start, settings(1000 + seed, options) | branch)
            folders[seed][name] = place / "stage"
    return folders


def node(region: NoiseInterval, steps: int) -> GrowthNode:
    """A node whose averaged weights look back over the same share of its run, however long that is."""
    return GrowthNode(region, steps, overrides={"trainer.callbacks.0.init_args.decay": 1 - 10 / steps})


def share(region: NoiseInterval) -> float:
    """The share of the training noise that a region is."""
    return float(sum(high - low for low, high in region.spans))


def frechet(one: np.ndarray, two: np.ndarray) -> float:
    """`|m1 - m2|² + tr(C1 + C2 - 2·(C1·C2)^1/2)` of the features [n, d] of two sets of pictures."""
    cov1, cov2 = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(cov1 @ cov2).real.clip(min=0)).sum()
    return float(((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * root)


def features(cascade: Cascade, images: list[Image.Image]) -> np.ndarray:
    """What the shipped CLIP sees in 64² pictures [n, d]."""
    with torch.inference_mode():
        pooled = cascade.encoders["clip_image"](torch.stack([to_tensor(image, 64) for image in images])).pooled
    return pooled.double().numpy()


def evaluate(model: Path, shipped: Cascade, truth: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """The losses by band, the oracle's verdict and the Fréchet distance of one model folder; kept beside it."""
    kept = model / "gain.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    stage = load_cascade(model).stages[0]
    scenes = options.passes * sum(shard.samples for shard in Index.read(TEST).shards)
    losses = band_losses(stage.denoiser, stage.denoiser.noise, TEST, stage.resolution, scenes)
    results, shown = judge(Cascade("gain", shipped.encoders, [stage, shipped.stages[1]]), options.prompts)
    found = {
        "bands": losses,
        "loss": sum(losses) / BANDS,
        "everything": results["accuracy"]["sr64"]["everything"],
        "shape": results["accuracy"]["sr64"]["shape"],
        "frechet": frechet(features(shipped, [image for _, image, _ in shown]), truth),
    }
    kept.write_text(json.dumps(found))
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(half)


def summarise(found: dict[int, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Each arm against the single model of the same seed: mean and half-width of the 95 % interval."""
    summary: dict[str, Any] = {}
    for arm in list(ARMS)[1:]:
        pairs = [(of_seed[arm], of_seed["single"]) for of_seed in found.values()]
        bands = [[100 * (a["bands"][k] / b["bands"][k] - 1) for a, b in pairs] for k in range(BANDS)]
        summary[arm] = {"loss change by band, %": [interval(values) for values in bands]}
        summary[arm]["loss change, %"] = interval([100 * (a["loss"] / b["loss"] - 1) for a, b in pairs])
        for key in ("everything", "shape", "frechet"):
            summary[arm][f"{key}, difference"] = interval([a[key] - b[key] for a, b in pairs])
    for arm in ("trunk", *ARMS):
        for key in ("loss", "everything", "shape", "frechet"):
            summary.setdefault(arm, {})[key] = interval([of_seed[arm][key] for of_seed in found.values()])
    return summary


def plot(summary: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, *rest) = pyplot.subplots(1, 3, figsize=(11, 3.8), layout="constrained", width_ratios=(3, 1.2, 1.2))
    for index, arm in enumerate(list(ARMS)[1:]):
        means, halves = zip(*summary[arm]["loss change by band, %"], strict=True)
        left.bar(
            np.arange(BANDS) + 0.4 * index - 0.2, means, 0.38, yerr=halves, label=arm, color=f"C{index + 1}", capsize=2
        )
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xlabel="eighth of the training noise, the least noisy first", ylabel="held-out loss against single, %")
    left.set_xticks(range(BANDS), range(1, BANDS + 1))
    left.legend()
    for axes, key, label in zip(
        rest, ("everything", "frechet"), ("everything right at 64²", "Fréchet distance, CLIP"), strict=True
    ):
        arms = ["trunk", *ARMS]
        means, halves = zip(*(summary[arm][key] for arm in arms), strict=True)
        axes.bar(range(4), means, yerr=np.nan_to_num(halves), capsize=3, color=["0.7", "C0", "C1", "C2"])
        axes.set_xticks(range(4), [arm.replace(" ", "\n") for arm in arms], fontsize=8)
        axes.set_title(label, fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/ensemble_gain"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trunk-steps", type=int, default=1000)
    parser.add_argument("--arm-steps", type=int, default=500, help="a multiple of 4 times --checkpoint-every")
    parser.add_argument("--checkpoint-every", type=int, default=125)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--precision", default="32-true", help="bf16-mixed is faster on CPUs with AVX-512 and on GPUs")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--passes", type=int, default=2, help="over the held-out scenes, each with noise of its own")
    parser.add_argument("--report", type=Path, default=Path("benchmarks/results/ensemble_gain.json"))
    options = parser.parse_args()
    folders = train(options)
    shipped = Cascade.from_pretrained("toybox")
    scenes = [scene for scene, _ in prompts(1, 1000)]
    truth = features(shipped, [Image.fromarray(render(scene, 64)) for scene in scenes])
    found = {
        seed: {name: evaluate(place, shipped, truth, options) for name, place in places.items()}
        for seed, places in folders.items()
    }
    summary = summarise(found)
    settings_told = {key: str(value) for key, value in vars(options).items()}
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps({"settings": settings_told, "summary": summary, "seeds": found}, indent=1))
    plot(summary, options.report.with_suffix(".png"))
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
