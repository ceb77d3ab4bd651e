"""An evaluation from end to end: captions, images of a cascade or of a folder, the judge, results and the report."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

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
from ediffi.evaluation.images.found import Match, all_images, find_images
from ediffi.evaluation.images.generate import generate, open_store
from ediffi.evaluation.judge import Candidate, Judge
from ediffi.evaluation.metrics.reference import ReferenceStatistics
from ediffi.evaluation.report import judged_sample
from ediffi.evaluation.report.stored import SELECTION, record_places
from ediffi.evaluation.report.text import text_table
from ediffi.evaluation.results import Results
from ediffi.evaluation.suite import Suite
from ediffi.io.distributed import DistributedContext
from ediffi.io.prompt_files import literal
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.cascade_generator import CascadeGenerator, EncodedPrompts, identity
from ediffi.pipeline.checkpoint import Residency
from ediffi.pipeline.options import SamplingOptions

REPORTED = 12
"""Images of each setting in the report."""

logger = logging.getLogger(__name__)


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
                generator = CascadeGenerator(cascade, chosen, known, threads, encoded, controls, self.suite.style_scale)
                name = f"guidance-{generator.settings['guidance_scale']:g}"
                store = open_store(self.folder / name, len(items), shard_size)
                if self.context.rank == 0:
                    logger.info("%s: %s images in %s", name, len(items), store.folder)
                captions = [literal(item.caption) for item in items]
                generate(generator, captions, store, batch_size=self.batch_size, context=self.context)
                candidates.append(Candidate(name, store, generator.settings))
            return candidates

        return self._judge(cascade.name, sample)

    def judge_images(self, images: Path, match: Match = "name") -> Results:
        """Judge images of any origin, a folder or shards; `match` as in `find_images`; raises as `judge_model`."""

        def found(_: CaptionDataset, items: Sequence[CaptionedImage]) -> list[Candidate]:
            chosen, there = find_images(images, [item.key for item in items], match), len(all_images(images))
            left = there - len(items)
            unused = (
                [f"{left} of {there} images in {images.name} have no caption here and are not judged"] if left else []
            )
            return [Candidate(images.name, chosen, notices=unused)]

        return self._judge(images.name, found, images, match)

    def log(self, results: Results) -> None:
        """Log the numbers, their notices, and the path of the report, from one process."""
        if self.context.rank == 0:
            logger.info("%s", text_table(results))
            for notice in dict.fromkeys(text for point in results.points for text in point.notices):
                logger.warning("note: %s", notice)
            logger.info("%s", (self.folder / report.FILE).resolve())

    def _judge(
        self,
        model: str,
        candidates: Callable[[CaptionDataset, Sequence[CaptionedImage]], list[Candidate]],
        images: Path | None = None,
        match: Match = "index",
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

            self.context.together(begin)
            return self._results(model, judge, references, candidates(dataset, items), images, match)

    def _results(
        self,
        model: str,
        judge: Judge,
        references: Sequence[ReferenceStatistics],
        candidates: Sequence[Candidate],
        images: Path | None,
        match: Match,
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
            write_selection(judge.items, self.folder / SELECTION)  # not before: a refused run changes nothing
            results.write(self.folder)
            record_places(self.folder, {point.name: images or self.folder / point.name for point in points}, match)
            model_index.write(results, self.folder)
            report.write(results, self.folder, samples, self.command)
        return results


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
