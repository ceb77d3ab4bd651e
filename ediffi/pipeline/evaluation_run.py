"""An evaluation from end to end: captions, images of a cascade or of a folder, the judge, results and the report."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ediffi.diffusion.layout import Region, polygon
from ediffi.evaluation import model_index, report
from ediffi.evaluation.code_state import made_by
from ediffi.evaluation.datasets.captioned import (
    CaptionDataset,
    CaptionedImage,
    ControlledDataset,
    Controls,
    select,
    write_selection,
)
from ediffi.evaluation.datasets.catalogue import open_dataset
from ediffi.evaluation.images.claim import lock
from ediffi.evaluation.images.found import find_images
from ediffi.evaluation.images.generate import generate, open_store
from ediffi.evaluation.judge import Candidate, Judge
from ediffi.evaluation.metrics.reference import ReferenceStatistics
from ediffi.evaluation.naming import metric_name, shown
from ediffi.evaluation.report import judged_sample
from ediffi.evaluation.report.stored import SELECTION, record_places
from ediffi.evaluation.results import Point, Results
from ediffi.evaluation.suite import Suite
from ediffi.hub.finding import CONFIG
from ediffi.io import files, png
from ediffi.io.distributed import DistributedContext
from ediffi.io.images import to_images
from ediffi.io.prompt_files import literal
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import Residency, locate
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.style import Style
from ediffi.registry.types import Conditioning

REPORTED = 12
"""Images of each setting in the report."""

logger = logging.getLogger(__name__)


class EncodedPrompts:
    """What the encoders make of batches of prompts, up to `limit` bytes of it, so that each batch is encoded once."""

    def __init__(self, cascade: Cascade, options: SamplingOptions, limit: int = 4 << 30) -> None:
        self.cascade, self.options, self.room = cascade, options, limit
        self._known: dict[tuple[str, ...], Conditioning] = {}

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of a batch, on the CPU."""
        if (known := self._known.get(tuple(prompts))) is not None:
            return known
        sizes: list[int] = []
        cond = self.cascade.encode(prompts, self.options.style, self.options.paint).to("cpu")
        cond.apply(lambda tensor: sizes.append(tensor.nbytes) or tensor)  # type: ignore[func-returns-value]
        if sum(sizes) <= self.room:
            self.room -= sum(sizes)
            self._known[tuple(prompts)] = cond
        return cond


class CascadeGenerator:
    """A cascade as an image generator: image k is a function of (seed, k), its prompt, the settings and its batch.

    `settings` are all that the images depend on; its "guidance_scale" is the base stage's, "nfe" the sum of all stages.
    The number of CPU threads is one of them: it changes the last bits, since sums are split among threads. So it does
    not depend on how many processes share the machine: one by default, and more processes for more cores. `controls`
    are those of each prompt of the run, if they have any.
    """

    def __init__(
        self,
        cascade: Cascade,
        options: SamplingOptions = SamplingOptions(),  # noqa: B008  (frozen)
        identity: Mapping[str, Any] | None = None,
        threads: int = 1,
        encoded: EncodedPrompts | None = None,
        controls: Sequence[Controls] = (),
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.cascade, self.options, self.threads, self.encoded = cascade, options, threads, encoded
        self.controls = controls
        plan = cascade.plan(options)
        self.settings: Mapping[str, Any] = {
            "model": cascade.name,
            "stages": {stage.name: asdict(s) for stage, s in zip(cascade.stages, plan, strict=True)},
            "seed": options.seed,
            **({} if options.negative_prompt is None else {"negative_prompt": options.negative_prompt}),
            **options.described(),
            **cascade.precision,
            **(identity or {}),
            "guidance_scale": plan[0].guidance_scale,
            "nfe": sum(sampling.nfe for sampling in plan),
            "threads": threads,
        }

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """An image for each prompt, with the settings that `ediffi inspect` shows."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            if any(map(any, self.controls)):
                return self._controlled(prompts, first_index)
            cond = None if self.encoded is None else self.encoded(prompts)
            made = self.cascade.generate(prompts, replace(self.options, first_index=first_index), cond=cond)
        finally:
            torch.set_num_threads(before)
        return [
            png.attach_settings(image, {**made.settings, "prompt": prompt, "first_index": index, "index": 0})
            for index, (prompt, image) in enumerate(zip(prompts, made.images, strict=True), start=first_index)
        ]

    def _controlled(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """An image for each prompt with its own controls; those with a style image are a batch of their own."""
        plan, images = self.cascade.plan(self.options), dict[int, Image.Image]()
        for with_style in (False, True):
            numbers = [n for n in range(first_index, first_index + len(prompts)) if self._has_style(n) == with_style]
            if numbers:
                conds = [self._encoded(prompts[number - first_index], self.controls[number]) for number in numbers]
                stages = self.cascade.sample(Conditioning.cat(conds), self.options.randomness(numbers), plan)
                images |= dict(zip(numbers, to_images(stages[self.cascade.stages[-1].name]), strict=True))
        known = {**self.settings, "index": 0}
        return [
            png.attach_settings(images[number], {**known, "prompt": prompt, "first_index": number})
            for number, prompt in enumerate(prompts, start=first_index)
        ]

    def _has_style(self, number: int) -> bool:
        return self.controls[number].style is not None

    def _encoded(self, prompt: str, controls: Controls) -> Conditioning:
        """A prompt with its controls."""
        style = None if controls.style is None else Style(controls.style)
        regions = [Region(phrase, polygon(corners(box))) for phrase, box in controls.areas]
        return self.cascade.encode([prompt], style, regions)


def identity(model: str | Path) -> dict[str, str]:
    """The sha256 of a model's `config.json`, which has the sha256 of all its weights."""
    return {"model_sha256": files.sha256(locate(model) / CONFIG)}


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of images by a suite."""

    suite: Suite
    folder: Path  # of images, rows and results
    root: Path | None  # folder of the dataset
    cache: Path  # folder of reference statistics
    context: DistributedContext
    batch_size: int = 8
    num_workers: int = 0  # that decode images, for each process of the run
    strict: bool = True  # refuse unusual and broken images
    clip_score: bool = True
    reference: Path | None = None  # to compare with instead of the dataset's own images: see `Judge.reference`
    command: str = ""  # the command line, for the report

    def judge_model(
        self,
        model: str,
        options: SamplingOptions,
        shard_size: int | None = None,
        threads: int = 1,
        expert_residency: Residency = "resident",
        dtype: str = "float32",
        compile: bool = False,
    ) -> Results:
        """Sample the suite's captions with a cascade, at each of the suite's guidance scales, and judge the images.

        With `shard_size`, write shards of so many images instead of PNG files. ValueError: the model has no stage of
        the suite's size, or a part of the evaluation refuses its input.
        """
        loaded = Cascade.from_pretrained(model, self.context.device, expert_residency, dtype=dtype, compile=compile)
        cascade = at_size(loaded, self.suite.image_size)

        def sample(dataset: CaptionDataset, items: Sequence[CaptionedImage]) -> list[Candidate]:
            candidates, controls = [], controls_of(dataset, items)
            known = identity(model) | ({"controls": dataset.protocol} if controls else {})
            scales: list[float | None] = [*self.suite.guidance_scales] or [None]
            encoded = EncodedPrompts(cascade, options) if len(scales) > 1 else None
            weight = options.paint_weight if self.suite.paint_weight is None else self.suite.paint_weight
            for scale in scales:
                chosen = replace(options, seed=self.suite.seed, guidance_scale=scale, paint_weight=weight)
                generator = CascadeGenerator(cascade, chosen, known, threads, encoded, controls)
                name = f"guidance-{generator.settings['guidance_scale']:g}"
                store = open_store(self.folder / name, len(items), shard_size)
                if self.context.rank == 0:
                    logger.info("%s: %s images in %s", name, len(items), store.folder)
                captions = [literal(item.caption) for item in items]
                generate(generator, captions, store, batch_size=self.batch_size, context=self.context)
                candidates.append(Candidate(name, store, generator.settings))
            return candidates

        return self._judge(cascade.name, sample)

    def judge_images(self, images: Path) -> Results:
        """Judge the images of a folder, of any origin; raises as `judge_model` does."""

        def found(_: CaptionDataset, items: Sequence[CaptionedImage]) -> list[Candidate]:
            return [Candidate(images.name, find_images(images, [item.key for item in items]))]

        return self._judge(images.name, found, images)

    def log(self, results: Results) -> None:
        """Log the numbers, their notices, and the path of the report, from one process."""
        if self.context.rank == 0:
            logger.info("%s", table(results))
            for notice in dict.fromkeys(text for point in results.points for text in point.notices):
                logger.warning("note: %s", notice)
            logger.info("%s", (self.folder / report.FILE).resolve())

    def _judge(
        self,
        model: str,
        candidates: Callable[[CaptionDataset, Sequence[CaptionedImage]], list[Candidate]],
        images: Path | None = None,
    ) -> Results:
        # The judge and its reference come first: a file that is missing is found before the first image is sampled.
        dataset = open_dataset(self.suite.dataset, self.root, self.suite.dataset_options)
        items = select(dataset.items(), self.suite.count, self.suite.seed)
        judge = Judge(self.suite, dataset, items, self.cache, self.context, self.clip_score, self.num_workers)
        references = judge.references(self.reference, self.strict)
        with ExitStack() as stack:

            def begin() -> None:
                if self.context.rank == 0:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(lock(self.folder))
                    write_selection(items, self.folder / SELECTION)

            self.context.together(begin)
            return self._results(model, judge, references, candidates(dataset, items), images)

    def _results(
        self,
        model: str,
        judge: Judge,
        references: Sequence[ReferenceStatistics],
        candidates: Sequence[Candidate],
        images: Path | None,
    ) -> Results:
        """Judge the candidates, and write everything about them; one run at a time in a folder."""
        dataset, points, samples = judge.dataset, [], {}
        for candidate in candidates:
            points.append(judge(candidate, references, self.folder / "rows" / candidate.name, self.strict))
            samples[candidate.name] = [
                judged_sample(item.caption, image, dataset.measure(item, image), index)
                for index, item in enumerate(judge.items[:REPORTED])
                if (image := judge.image(candidate, index, self.strict)) is not None
            ]
        protocol = judge.protocol(references[0]) | made_by(self.command)
        results = Results(model, self.suite.described(), protocol, points)
        if self.context.rank == 0:
            results.write(self.folder)
            record_places(self.folder, {point.name: images or self.folder / point.name for point in points})
            model_index.write(results, self.folder)
            report.write(results, self.folder, samples, self.command)
        return results


def corners(box: Sequence[float]) -> list[list[float]]:
    """The corners of a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def controls_of(dataset: CaptionDataset, items: Sequence[CaptionedImage]) -> list[Controls]:
    """The controls of each item; an empty list if the dataset has none."""
    return [dataset.controls(item) for item in items] if isinstance(dataset, ControlledDataset) else []


def at_size(cascade: Cascade, size: int) -> Cascade:
    """The cascade up to the stage with images of `size` pixels; ValueError if it has none."""
    for stage in cascade.stages:
        if stage.resolution == size:
            return cascade.up_to(stage.name)
    sizes = ", ".join(str(stage.resolution) for stage in cascade.stages)
    raise ValueError(f"the suite is for images of {size} pixels, and model {cascade.name!r} makes {sizes}")


def table(results: Results) -> str:
    """The numbers as text, a row for each setting, or a column if there are more metrics than settings."""
    # A metric that no setting has a number of, such as the KID's standard deviation of few images, has no line.
    measured = dict.fromkeys(name for point in results.points for name in point.metrics)
    names = [name for name in measured if any(point.metric(name) is not None for point in results.points)]
    titles = [metric_name(name) for name in names]
    # A measure of several kinds of prompts is told with its kind.
    titles = [
        f"{name.partition('/')[0]}: {title.lower()}" if titles.count(title) > 1 else title
        for name, title in zip(names, titles, strict=True)
    ]
    rows = [["", *titles]]
    rows += [[point.title, *(_with_interval(point, name) for name in names)] for point in results.points]
    if len(results.points) < len(names):
        rows = [list(row) for row in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _with_interval(point: Point, name: str) -> str:
    """A number as people read it, with the ends of its interval: "7.35 [7.21, 7.50]"."""
    text, ends = shown(name, point.metric(name)), point.interval(name)
    return text if ends is None else f"{text} [{', '.join(shown(name, end) for end in ends)}]"
