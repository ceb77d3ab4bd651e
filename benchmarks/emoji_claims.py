"""The paper's claims on pictures that people drew: experts, encoders, attention and switching, of an emoji model.

    PYTHONPATH=. python benchmarks/emoji_claims.py MODEL --suite data/emoji/suite --train data/emoji/references64
        --test data/emoji/test-references64 [--only experts ...] [--output runs/emoji_claims]

Everything is of the base stage, and read by the judge of the suite `emoji`. Intervals are 95 %: of a rate, Wilson's;
over seeds, Student's t. What is finished is kept under --output, so that the same command goes on.

experts: from the model's base stage, for each seed and for --steps more steps in all, one model against two experts,
(1, 0) and (1, 1), and three, (2, 0), (2, 3) and their complement; equal samples, and so equal time. Held-out loss in
eight bands of the noise, thing and style of the first --prompts seen and held-out pairs, and the Fréchet distance.
encoders: thing and style with MiniLM alone, CLIP alone and both, with short and long captions (figure 8); what is left
out is dropped as in training.
attention: the share that each encoder and the null token get of the cross-attention, by noise (figure 3).
switch: which of two prompts the image shows if the second takes over for the last steps (figure 4).
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ensemble_gain import ARMS, interval, share
from PIL import Image
from scipy import stats
from tqdm import tqdm

from ediffi.diffusion.noise import NoiseInterval
from ediffi.evaluation.datasets.captioned import CaptionedImage
from ediffi.evaluation.datasets.emoji.dataset import EmojiScenes
from ediffi.evaluation.metrics.features import load_extractor
from ediffi.evaluation.metrics.frechet import Moments, frechet_distance
from ediffi.hub.finding import CONFIG
from ediffi.io.files import replace
from ediffi.pipeline.attention_maps import NULL, attention_maps
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import load_cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.style import Switch
from ediffi.pipeline.trained_stage import read_trained_stage
from ediffi.registry.types import Conditioning
from ediffi.training.growth.compose import StageRecipe
from ediffi.training.growth.grow import grow
from ediffi.training.growth.schedule import GrowthNode, TrunkStage
from reproduction.drawing import bars, lines
from reproduction.judging import BANDS, band_losses

ENCODERS = {"MiniLM": ("clip_text",), "CLIP": ("t5",), "both": ()}
"""What is dropped."""
FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
BATCH = 20


class Claims:
    """A model, the prompts of a suite, and what is measured of them so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.output = options, options.output
        self.cascade = Cascade.from_pretrained(options.model)
        self.cascade = self.cascade.up_to(self.cascade.stages[0].name)
        self.output.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, measure: Callable[[], Any]) -> Any:
        """What was measured before under a name, or is now."""
        path = self.output / f"{name}.json"
        if not path.is_file():
            replace(path, json.dumps(measure()))
        return json.loads(path.read_text())

    def prompts(self, kind: str, root: Path | None = None) -> tuple[EmojiScenes, list[CaptionedImage]]:
        """The first prompts of a kind, and the dataset that measures their images."""
        dataset = EmojiScenes(root or self.options.suite, (kind,))
        return dataset, dataset.items()[: self.options.prompts]

    def images(
        self, cascade: Cascade, items: Sequence[CaptionedImage], without: Sequence[str] = ()
    ) -> list[Image.Image]:
        """An image for each caption, image k of (0, k); sources that are left out are dropped."""
        made: list[Image.Image] = []
        for first in tqdm(range(0, len(items), BATCH), desc="images", unit="batch", mininterval=5):
            captions = [item.caption for item in items[first : first + BATCH]]
            cond: Conditioning = self.cascade.encode(captions)
            for source in without:
                cond = cond.drop(source, torch.ones(len(captions), dtype=torch.bool))
            shown: Any = cascade(captions, cond=cond, seed=0, first_index=first, progress_bar=False)
            made += list(shown)
        return made

    def rates(
        self, dataset: EmojiScenes, items: Sequence[CaptionedImage], images: Sequence[Image.Image]
    ) -> dict[str, float]:
        """The shares of the images with the right thing, and with the right style."""
        found = [dataset.measure(*pair) for pair in zip(items, images, strict=True)]
        (kind,) = dataset.protocol["kinds"]
        measures = {"thing": f"{kind}/concept", "style": f"{kind}/style"}
        return {name: float(np.mean([one[key] for one in found])) for name, key in measures.items()}


def experts(claims: Claims) -> dict[str, Any]:
    """One model against two and three experts, at equal samples."""
    options = claims.options
    found: dict[str, dict[str, Any]] = {}
    for seed in options.seeds:
        for arm in ARMS:
            name = f"{arm.replace(' ', '_')}-{seed}"
            measure = partial(_arm, claims, name, arm, seed)
            found.setdefault(str(seed), {})[arm] = claims.kept(name, measure)
    found_trunk = claims.kept("trunk", lambda: _measured(claims, claims.cascade))
    change: dict[str, Any] = {}
    for arm in list(ARMS)[1:]:
        pairs = [(of_seed[arm], of_seed["single"]) for of_seed in found.values()]
        bands = [[100 * (a["bands"][k] / b["bands"][k] - 1) for a, b in pairs] for k in range(BANDS)]
        change[arm] = {"loss by band, %": [interval(values) for values in bands]}
        change[arm]["loss, %"] = interval([100 * (sum(a["bands"]) / sum(b["bands"]) - 1) for a, b in pairs])
        for key in found_trunk.keys() - {"bands"}:
            change[arm][key] = interval([a[key] - b[key] for a, b in pairs])
    series = {arm: change[arm]["loss by band, %"] for arm in change}
    axes = {
        "xlabel": "eighth of the training noise, the least noisy first",
        "ylabel": "held-out loss against one model, %",
    }
    bars(claims.output / "experts.png", [str(band + 1) for band in range(BANDS)], series, axes)
    return {"trunk": found_trunk, "arms": found, "against one model": change}


def _arm(claims: Claims, name: str, arm: str, seed: int) -> dict[str, Any]:
    options, stage = claims.options, claims.cascade.stages[0]
    place = claims.output / "runs" / name
    nodes = [_node(region, round(options.steps * share(region))) for region in ARMS[arm]]
    settings = {
        "seed_everything": 1000 + seed,
        "data.train": str(options.train),
        "data.val": str(options.test),
        "model.optimizer.init_args.lr": options.learning_rate,
        "trainer.enable_model_summary": False,
        "trainer.enable_progress_bar": False,
    }
    trained = read_trained_stage(Path(options.model), stage.name)
    into = StageRecipe(trained.name, trained.resolution, None, trained.sampling)
    if not (place / "stage" / CONFIG).is_file():
        grow(place, options.recipe, nodes, into, TrunkStage(str(options.model), stage.name), settings)
    grown = load_cascade(place / "stage").stages[0]
    grown = dataclasses.replace(grown, sampling=stage.sampling)
    return _measured(claims, Cascade("grown", claims.cascade.encoders, [grown]))


def _node(region: NoiseInterval, steps: int) -> GrowthNode:
    changes = {"trainer.callbacks.0.init_args.decay": 1 - 10 / steps, "trainer.val_check_interval": steps}
    return GrowthNode(region, steps, overrides=changes | {"trainer.callbacks.1.init_args.every_n_train_steps": steps})


def _measured(claims: Claims, cascade: Cascade) -> dict[str, Any]:
    """Losses by band, rates, and the Fréchet distance to the drawings of the same captions."""
    (stage,) = cascade.stages
    noise = read_trained_stage(Path(claims.options.model), stage.name).noise
    found: dict[str, Any] = {
        "bands": band_losses(stage.denoiser, noise, claims.options.test, stage.resolution, claims.options.scenes)
    }
    every: list[Image.Image] = []
    drawn: list[Image.Image] = []
    for kind in ("seen pairs", "held-out pairs"):
        dataset, items = claims.prompts(kind)
        images = claims.images(cascade, items)
        found |= {f"{kind}, {name}": rate for name, rate in claims.rates(dataset, items, images).items()}
        every += images
        drawn += [dataset.reference(item, images[0].width) for item in items]
    extractor = load_extractor("efficientnet-lite0", weights=claims.options.feature_weights)
    one, two = (_moments(extractor, images) for images in (every, drawn))
    return found | {"Fréchet distance": frechet_distance(one.mean, one.cov, two.mean, two.cov)}


def _moments(extractor: Any, images: Sequence[Image.Image]) -> Moments:
    moments = Moments.zero(extractor.width)
    for first in range(0, len(images), BATCH):
        prepared = [extractor.prepare(image.convert("RGB")) for image in images[first : first + BATCH]]
        moments = moments.update(extractor(torch.stack(prepared)))
    return moments


def encoders(claims: Claims) -> dict[str, Any]:
    """Thing and style with each encoder alone and with both, short and long captions."""
    suites = {"short": claims.options.suite, "long": claims.options.long_suite}
    found: dict[str, Any] = {}
    for length, suite in suites.items():
        prompts = claims.prompts("seen pairs", suite)
        for name, without in ENCODERS.items():
            measure = partial(_with_encoders, claims, *prompts, without)
            found.setdefault(length, {})[name] = claims.kept(f"encoders-{length}-{name}", measure)
    shown = [(length, what) for length in found for what in ("thing", "style")]
    series = {name: [_centred(found[length][name][what]) for length, what in shown] for name in ENCODERS}
    groups = [f"{length}, {what}" for length, what in shown]
    bars(claims.output / "encoders.png", groups, series, {"ylabel": "share of the images", "ylim": (0, 1)})
    return found


def _with_encoders(
    claims: Claims, dataset: EmojiScenes, items: Sequence[CaptionedImage], without: Sequence[str]
) -> dict[str, Any]:
    rates = claims.rates(dataset, items, claims.images(claims.cascade, items, without))
    return {key: [rate, *_wilson(rate, len(items))] for key, rate in rates.items()}


def attention(claims: Claims) -> dict[str, Any]:
    """The shares of the cross-attention by noise."""
    found = claims.kept("attention", partial(_attention, claims))
    shown = {("null token" if name == NULL else name): (found["sigmas"], one) for name, one in found["shares"].items()}
    axes = {"xscale": "log", "xlabel": "sigma", "ylabel": "share of the attention", "ylim": (0, 1)}
    lines(claims.output / "attention.png", shown, axes)
    return dict(found)


def _attention(claims: Claims) -> dict[str, Any]:
    texts = [item.caption for item in claims.prompts("seen pairs")[1][: claims.options.watched]]
    watched = [attention_maps(claims.cascade, text, SamplingOptions(seed=seed)) for seed, text in enumerate(texts)]
    names = watched[0].shares()
    shares = {name: torch.stack([one.shares()[name] for one in watched]).mean(0).tolist() for name in names}
    return {"sigmas": watched[0].sigmas, "shares": shares, "prompts": len(texts)}


def switch(claims: Claims) -> dict[str, Any]:
    """Which of two prompts an image shows, by the share of the last steps that the second got."""
    found = claims.kept("switch", partial(_switch, claims))
    percent = [100 * fraction for fraction in FRACTIONS]
    axes = {"xlabel": "last steps with the second prompt, %", "ylabel": "images that show its thing", "ylim": (0, 1.02)}
    shown = {f"{name} prompt": (percent, rates) for name, rates in found["rates"].items()}
    lines(claims.output / "switch.png", shown, axes)
    return dict(found)


def _switch(claims: Claims) -> dict[str, Any]:
    dataset, items = claims.prompts("seen pairs")
    pairs = list(zip(items[::2], items[1::2], strict=False))[: claims.options.watched]
    found = np.zeros((2, len(pairs), len(FRACTIONS)))
    for row, pair in enumerate(tqdm(pairs, desc="switch", unit="pair", mininterval=5)):
        for column, fraction in enumerate(FRACTIONS):
            then = Switch(pair[1].caption, 1 - fraction)
            made: Any = claims.cascade(pair[0].caption, seed=row, switch=then, progress_bar=False)
            found[:, row, column] = [claims.rates(dataset, [item], [made[0]])["thing"] for item in pair]
    first, second = found.mean(1).tolist()
    return {"fractions": FRACTIONS, "pairs": len(pairs), "rates": {"first": first, "second": second}}


def _wilson(rate: float, count: int) -> tuple[float, float]:
    found = stats.binomtest(round(rate * count), count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _centred(interval: Sequence[float]) -> tuple[float, float]:
    """A rate with half the width of its interval."""
    return interval[0], (interval[2] - interval[1]) / 2


CLAIMS = {one.__name__: one for one in (encoders, attention, switch, experts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the folder of an emoji model")
    parser.add_argument("--suite", type=Path, required=True)
    parser.add_argument("--long-suite", type=Path, help="written with --length long; for encoders")
    parser.add_argument("--train", type=Path, help="embedded shards, for experts")
    parser.add_argument("--test", type=Path, help="embedded shards of the split test, for experts")
    parser.add_argument("--recipe", type=Path, default=Path("recipes/emoji/base_more.yaml"))
    parser.add_argument("--feature-weights", type=Path)
    parser.add_argument("--only", nargs="+", choices=tuple(CLAIMS), default=tuple(CLAIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=160, help="of each arm, over all of its experts")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--prompts", type=int, default=120, help="of each kind")
    parser.add_argument("--scenes", type=int, default=2000, help="held-out scenes that losses are measured on")
    parser.add_argument("--watched", type=int, default=20, help="prompts of attention, and pairs of switch")
    parser.add_argument("--output", type=Path, default=Path("runs/emoji_claims"))
    claims = Claims(options := parser.parse_args())
    found = {name: CLAIMS[name](claims) for name in options.only}
    settings = {key: getattr(options, key) for key in ("steps", "seeds", "prompts", "scenes", "watched")}
    path = claims.output / "claims.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    replace(path, json.dumps({**before, "settings": settings, **found}, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
