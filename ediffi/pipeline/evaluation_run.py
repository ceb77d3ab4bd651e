"""An evaluation from end to end: captions, pictures of a cascade or of others, the judge, results and the report."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ediffi.evaluation import model_index, report
from ediffi.evaluation.datasets.captioned import CaptionedImage, select, write_selection
from ediffi.evaluation.datasets.catalogue import open_dataset
from ediffi.evaluation.images.found import find_images
from ediffi.evaluation.images.generate import generate, open_store
from ediffi.evaluation.judge import Candidate, Judge
from ediffi.evaluation.naming import metric_name, shown
from ediffi.evaluation.report import ReportSample, judged_sample
from ediffi.evaluation.results import Results
from ediffi.evaluation.suite import Suite
from ediffi.io.distributed import DistributedContext
from ediffi.io.images import rgb
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.checkpoint import Residency
from ediffi.pipeline.generator import CascadeGenerator, identity
from ediffi.pipeline.options import SamplingOptions

SELECTION = "selection.jsonl"
SHOWN = 12
"""Pictures of each setting on the report's page."""


@dataclass(frozen=True)
class Evaluation:
    """What is judged, where, and by how many.

    Attributes:
        suite: captions, settings and networks.
        folder: of pictures, rows and results.
        root: folder of the data set.
        cache: folder of reference statistics.
        fleet: the processes of this run.
        batch_size: pictures at a time.
        num_workers: processes that decode, for each of the fleet.
        strict: refuse odd and broken pictures.
        clip_score: whether captions are scored.
        statistics: an .npz to compare with, instead of the data set's own pictures.
        command: what was typed, for the report.
    """

    suite: Suite
    folder: Path
    root: Path | None
    cache: Path
    fleet: DistributedContext
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
        """Paint the suite's captions with a cascade, at each of the suite's guidance scales, and judge the pictures.

        Args:
            model: the shipped "toybox", a folder, or ORG/REPO of the Hub.
            options: of the images; seed and guidance scales are the suite's.
            shard_size: write shards of so many pictures, instead of PNG files.
            threads: of the processor, while pictures are painted.
            expert_residency: see `Cascade.from_pretrained`.

        Raises:
            ValueError: the model has no stage of the suite's size, or what the parts of an evaluation raise.
            OSError: a file is missing, or cannot be read or written.
        """
        cascade = at_size(Cascade.from_pretrained(model, self.fleet.device, expert_residency), self.suite.image_size)

        def paint(items: Sequence[CaptionedImage]) -> list[Candidate]:
            candidates = []
            scales: list[float | None] = [*self.suite.guidance_scales] or [None]
            for scale in scales:
                chosen = replace(options, seed=self.suite.seed, guidance_scale=scale)
                generator = CascadeGenerator(cascade, chosen, identity(model), threads)
                name = f"guidance-{generator.settings['guidance_scale']:g}"
                store = open_store(self.folder / name, len(items), shard_size)
                if self.fleet.rank == 0:
                    print(f"{name}: {len(items)} pictures in {store.folder}")
                captions = [item.caption for item in items]
                generate(generator, captions, store, batch_size=self.batch_size, context=self.fleet)
                candidates.append(Candidate(name, store, generator.settings))
            return candidates

        return self._judge(cascade.name, paint)

    def judge_images(self, images: Path) -> Results:
        """Judge the pictures in a folder, whoever made them; raises as `judge_model` does."""

        def find(items: Sequence[CaptionedImage]) -> list[Candidate]:
            return [Candidate(images.name, find_images(images, [item.key for item in items]))]

        return self._judge(images.name, find)

    def _judge(self, model: str, candidates: Callable[[Sequence[CaptionedImage]], list[Candidate]]) -> Results:
        """Everything that can be found missing is looked for before the first picture is painted."""
        dataset = open_dataset(self.suite.dataset, self.root, self.suite.dataset_options)
        items = select(dataset.items(), self.suite.count, self.suite.seed)
        judge = Judge(self.suite, dataset, items, self.cache, self.fleet, self.clip_score, self.num_workers)
        reference = judge.reference(self.statistics)

        def begin() -> None:
            if self.fleet.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_selection(items, self.folder / SELECTION)

        self.fleet.together(begin)
        points, samples = [], {}
        for candidate in candidates(items):
            rows = self.folder / "rows" / candidate.name
            points.append(judge(candidate, reference, rows, self.strict))
            samples[candidate.name] = [
                judged_sample(item.caption, image := rgb(candidate.images[index]), dataset.measure(item, image))
                for index, item in enumerate(items[:SHOWN])
            ]
        results = Results(model, self.suite.described(), judge.protocol(reference), points)
        if self.fleet.rank == 0:
            self._write(results, samples)
        return results

    def _write(self, results: Results, samples: Mapping[str, Sequence[ReportSample]]) -> None:
        """Write results, report and what the Hub reads."""
        results.write(self.folder)
        model_index.write(results, self.folder)
        report.write(results, self.folder, samples, self.command)

    def tell(self, results: Results) -> None:
        """Print the numbers, what has to be known of them, and where the report is; one process does."""
        if self.fleet.rank == 0:
            print(table(results))
            for notice in dict.fromkeys(text for point in results.points for text in point.notices):
                print(f"note: {notice}", file=sys.stderr)
            print((self.folder / report.FILE).resolve())


def at_size(cascade: Cascade, size: int) -> Cascade:
    """The cascade up to the stage whose pictures are `size` a side.

    Raises:
        ValueError: it has no such stage.
    """
    for stage in cascade.stages:
        if stage.resolution == size:
            return cascade.up_to(stage.name)
    sizes = ", ".join(str(stage.resolution) for stage in cascade.stages)
    raise ValueError(f"the suite is for pictures of {size} pixels, and model {cascade.name!r} makes {sizes}")


def table(results: Results) -> str:
    """The numbers, a line for each setting."""
    names = list(dict.fromkeys(name for point in results.points for name in point.metrics))
    rows = [["", *(metric_name(name) for name in names)]]
    rows += [[point.title, *(shown(name, point.metric(name)) for name in names)] for point in results.points]
    if len(results.points) < len(names):  # easier to read standing
        rows = [list(row) for row in zip(*rows, strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
