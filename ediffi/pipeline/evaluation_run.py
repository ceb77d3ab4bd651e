"""An evaluation from end to end: captions, images of a cascade or of a folder, the judge, results and the report."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ediffi.evaluation import model_index, report
from ediffi.evaluation.datasets.captioned import CaptionedImage, select, write_selection
from ediffi.evaluation.datasets.catalogue import open_dataset
from ediffi.evaluation.images.found import find_images
from ediffi.evaluation.images.generate import generate, open_store
from ediffi.evaluation.judge import Candidate, Judge
from ediffi.evaluation.naming import metric_name, shown
from ediffi.evaluation.report import judged_sample
from ediffi.evaluation.results import Results
from ediffi.evaluation.suite import Suite
from ediffi.io.distributed import DistributedContext
from ediffi.io.images import rgb
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import Residency
from ediffi.pipeline.generator import CascadeGenerator, identity
from ediffi.pipeline.options import SamplingOptions

SELECTION = "selection.jsonl"
REPORTED = 12
"""Images of each setting in the report."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of images by a suite.

    Attributes:
        suite: captions, settings and networks.
        folder: of images, rows and results.
        root: folder of the dataset.
        cache: folder of reference statistics.
        context: the processes of this run.
        batch_size: images at a time.
        num_workers: processes that decode images, for each process of the run.
        strict: refuse unusual and broken images.
        clip_score: whether the CLIP score is measured.
        statistics: an .npz to compare with instead of the dataset's own images.
        command: the command line, for the report.
    """

    suite: Suite
    folder: Path
    root: Path | None
    cache: Path
    context: DistributedContext
    batch_size: int = 8
    num_workers: int = 0
    strict: bool = True
    clip_score: bool = True
    statistics: Path | None = None
    command: str = ""

    def judge_model(
        self,
        model: str,
        options: SamplingOptions,
        shard_size: int | None = None,
        threads: int = 1,
        expert_residency: Residency = "resident",
    ) -> Results:
        """Sample the suite's captions with a cascade, at each of the suite's guidance scales, and judge the images.

        Args:
            model: the shipped "toybox", a folder, or ORG/REPO of the Hub.
            options: of the images; seed and guidance scales are the suite's.
            shard_size: write shards of so many images instead of PNG files.
            threads: of the CPU, while images are sampled.
            expert_residency: see `Cascade.from_pretrained`.

        Raises:
            ValueError: the model has no stage of the suite's size, or a part of the evaluation refuses its input.
            OSError: a file is missing, or cannot be read or written.
        """
        cascade = at_size(Cascade.from_pretrained(model, self.context.device, expert_residency), self.suite.image_size)

        def sample(items: Sequence[CaptionedImage]) -> list[Candidate]:
            candidates = []
            scales: list[float | None] = [*self.suite.guidance_scales] or [None]
            for scale in scales:
                chosen = replace(options, seed=self.suite.seed, guidance_scale=scale)
                generator = CascadeGenerator(cascade, chosen, identity(model), threads)
                name = f"guidance-{generator.settings['guidance_scale']:g}"
                store = open_store(self.folder / name, len(items), shard_size)
                if self.context.rank == 0:
                    logger.info("%s: %s images in %s", name, len(items), store.folder)
                captions = [item.caption for item in items]
                generate(generator, captions, store, batch_size=self.batch_size, context=self.context)
                candidates.append(Candidate(name, store, generator.settings))
            return candidates

        return self._judge(cascade.name, sample)

    def judge_images(self, images: Path) -> Results:
        """Judge the images of a folder, of any origin; raises as `judge_model` does."""

        def find(items: Sequence[CaptionedImage]) -> list[Candidate]:
            return [Candidate(images.name, find_images(images, [item.key for item in items]))]

        return self._judge(images.name, find)

    def log(self, results: Results) -> None:
        """Log the numbers, their notices, and the path of the report, from one process."""
        if self.context.rank == 0:
            logger.info("%s", table(results))
            for notice in dict.fromkeys(text for point in results.points for text in point.notices):
                logger.warning("note: %s", notice)
            logger.info("%s", (self.folder / report.FILE).resolve())

    def _judge(self, model: str, candidates: Callable[[Sequence[CaptionedImage]], list[Candidate]]) -> Results:
        # The judge and its reference come first: a file that is missing is found before the first image is sampled.
        dataset = open_dataset(self.suite.dataset, self.root, self.suite.dataset_options)
        items = select(dataset.items(), self.suite.count, self.suite.seed)
        judge = Judge(self.suite, dataset, items, self.cache, self.context, self.clip_score, self.num_workers)
        reference = judge.reference(self.statistics)

        def begin() -> None:
            if self.context.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_selection(items, self.folder / SELECTION)

        self.context.together(begin)
        points, samples = [], {}
        for candidate in candidates(items):
            points.append(judge(candidate, reference, self.folder / "rows" / candidate.name, self.strict))
            samples[candidate.name] = [
                judged_sample(item.caption, image := rgb(candidate.images[index]), dataset.measure(item, image))
                for index, item in enumerate(items[:REPORTED])
            ]
        results = Results(model, self.suite.described(), judge.protocol(reference), points)
        if self.context.rank == 0:
            results.write(self.folder)
            model_index.write(results, self.folder)
            report.write(results, self.folder, samples, self.command)
        return results


def at_size(cascade: Cascade, size: int) -> Cascade:
    """The cascade up to the stage with images of `size` pixels.

    Raises:
        ValueError: it has no such stage.
    """
    for stage in cascade.stages:
        if stage.resolution == size:
            return cascade.up_to(stage.name)
    sizes = ", ".join(str(stage.resolution) for stage in cascade.stages)
    raise ValueError(f"the suite is for images of {size} pixels, and model {cascade.name!r} makes {sizes}")


def table(results: Results) -> str:
    """The numbers as text, a row for each setting, or a column if there are more metrics than settings."""
    names = list(dict.fromkeys(name for point in results.points for name in point.metrics))
    rows = [["", *(metric_name(name) for name in names)]]
    rows += [[point.title, *(shown(name, point.metric(name)) for name in names)] for point in results.points]
    if len(results.points) < len(names):
        rows = [list(row) for row in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
