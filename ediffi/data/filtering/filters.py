"""Filter shards (eDiff-I, section 5: CLIP score, aesthetic score, image size).

First every shard is measured, then duplicates are found, then the filtered shards are written. Of duplicates that pass
everything else, one is kept: the first sample of the first shard by name. So what is kept is a function of the shards
and the thresholds: not of the order of work, of resuming, or of the number of processes.
"""

import io
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ediffi.data.filtering import duplicates
from ediffi.data.filtering.measure import Measures, measure
from ediffi.data.filtering.report import FilterReport
from ediffi.data.filtering.scorer import Scorer, ScoreSettings
from ediffi.data.index import INDEX, write_index
from ediffi.data.shards import reject_without_image, write_tar
from ediffi.data.tar import RawSample, Tally, read_samples
from ediffi.io import urls
from ediffi.io.distributed import DistributedContext
from ediffi.io.progress import Progress
from ediffi.io.recipes import building, one_sentence, recipe_parser

DUPLICATE = "duplicate"
MEASURE, FILTER = "measure", "filter"
"""The steps whose unit is a shard."""


@dataclass(frozen=True)
class Keep:
    """Which samples to keep.

    Args:
        short_side_above: the shortest side has more pixels than this: 64, 256 or 1024 in the paper's three stages.
        alignment: the least cosine of image and caption; None to keep any.
        aesthetic: the least aesthetic score; None to keep any.
        caption: only samples with a caption.
        unique: of duplicates, only one.
    """

    short_side_above: int = 0
    alignment: float | None = None
    aesthetic: float | None = None
    caption: bool = True
    unique: bool = True

    def __post_init__(self) -> None:
        if self.short_side_above < 0:
            raise ValueError(f"short_side_above must not be negative, got {self.short_side_above}")
        if self.alignment is not None and not -1 <= self.alignment <= 1:
            raise ValueError(f"alignment must be in [-1, 1], got {self.alignment}")
        if self.aesthetic is not None and not np.isfinite(self.aesthetic):
            raise ValueError(f"aesthetic must be finite, got {self.aesthetic}")

    def judge(self, measures: Measures) -> list[str | None]:
        """Why each sample is dropped, the first reason that applies, or None; without looking for duplicates."""
        tests = [
            ("no caption", ~np.array(measures.captioned, dtype=bool) & self.caption),
            (f"short side at most {self.short_side_above}", measures.values("short_side") <= self.short_side_above),
        ]
        for name, least in (("alignment", self.alignment), ("aesthetic", self.aesthetic)):
            if least is not None:
                values = measures.values(name)
                tests += [(f"no {name} score", np.isnan(values)), (f"{name} below {least:g}", values < least)]
        verdicts = list(measures.problems)
        for reason, failed in tests:
            for row in np.flatnonzero(failed):
                verdicts[row] = verdicts[row] or reason
        return verdicts


@dataclass(frozen=True)
class FilterRun:
    """A run of the filter: the filtered shards go to `output` under their own names; several filters may share
    `measures`. Both are URLs only if a cluster does it. ValueError: two shards have one name, a threshold is on a score
    that is neither computed nor in the metadata, or a library is missing."""

    shards: Sequence[str]
    output: Path | str
    measures: Path | str
    settings: ScoreSettings
    keep: Keep

    def __post_init__(self) -> None:
        if same := len(self.shards) - len(self.by_name):
            raise ValueError(f"{same} of the shards have the file name of another one")
        for name, field, part in (
            ("alignment", self.settings.similarity, self.settings.clip_text),
            ("aesthetic", self.settings.aesthetic_score, self.settings.aesthetic),
        ):
            if getattr(self.keep, name) is not None and field is None and part is None:
                raise ValueError(f"keep.{name} is a threshold on a score that is neither computed nor in the metadata")
        if self.settings.hash == "perceptual" and find_spec("imagehash") is None:
            raise ValueError("perceptual hashes need imagehash: pip install 'ediffi[data]', or let hash be bytes")

    @cached_property
    def by_name(self) -> dict[str, str]:
        """The shards by name, in the order that decides between duplicates."""
        found = {PurePosixPath(urls.redact(url)).name.removesuffix(".tar"): url for url in self.shards}
        return dict(sorted(found.items()))

    @cached_property
    def names(self) -> list[str]:
        """The names of the shards, by number."""
        return list(self.by_name)

    def run(self, context: DistributedContext) -> FilterReport:
        """Measure, judge, write the shards and the index; finished files stay as they are. Returns the total.
        ValueError: the folders are of another run, a shard was changed since it was measured, or nothing passes."""
        if remote := [place for place in (self.output, self.measures) if urls.is_remote(str(place))]:
            raise ValueError(f"{remote[0]} is a URL, to which only --engine ray writes")
        scorer = Scorer(self.settings, context.device)
        if context.rank == 0:
            self.claim(scorer.claim())
        context.gather(None)
        for number in self._share(MEASURE, context):
            self.measure(number, scorer)
        context.gather(None)
        if self.keep.unique:
            duplicates.find(Path(self.duplicates), len(self.names), self.passing, context)
        for number in self._share(FILTER, context):
            self.filter(number)
        context.gather(None)
        total = self.finish(context.rank == 0)
        context.gather(None)
        return total

    def claim(self, measuring: Mapping[str, Any]) -> None:
        """Write down what the folders are for, or check that they are for the same. `measuring` is what the scorer
        claims."""
        measured = {"measuring": measuring}
        filtered = measured | {"keep": asdict(self.keep), "shards": self.names}
        for folder, note, what, content in (
            (str(self.measures), "measures.claim", "measures", measured),
            (str(self.output), "filter.json", "a filter", filtered),
        ):
            if not urls.is_remote(folder):
                Path(folder).mkdir(parents=True, exist_ok=True)
            place, text = urls.join(folder, note), json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
            if not urls.exists(place):
                urls.write_bytes(place, text)
            elif urls.read_bytes(place).decode() != text:
                raise ValueError(f"{folder} holds {what} of other shards or settings; choose another folder")

    def unfinished(self, step: str) -> list[int]:
        """The shards without the file of a step."""
        folder, ending = (self.measures, ".json") if step == MEASURE else (self.output, ".report.json")
        there = set(urls.names(str(folder)))
        return [number for number, name in enumerate(self.names) if name + ending not in there]

    def measure(self, number: int, scorer: Scorer) -> None:
        """Measure a shard."""
        name = self.names[number]
        measure(self.by_name[name], self.settings, scorer).write(self._measures(name))

    def passing(self, number: int) -> list[tuple[int, str]]:
        """Row and hash of the samples of a shard that pass everything but the search for duplicates."""
        measures = Measures.read(self._measures(self.names[number]))
        verdicts = self.keep.judge(measures)
        return [(row, measures.hashes[row]) for row, reason in enumerate(verdicts) if reason is None]

    def filter(self, number: int) -> None:
        """Write the samples of a shard that stay, and a report."""
        name = self.names[number]
        measures, verdicts = self.verdicts(name)
        shard = None
        if None in verdicts:
            place = urls.join(str(self.output), f"{name}.tar")
            shard = {"file": f"{name}.tar", **write_tar(place, _kept(self.by_name[name], measures, verdicts))}
        FilterReport.of(measures, verdicts, shard).write(self._report(name))

    def verdicts(self, name: str) -> tuple[Measures, list[str | None]]:
        """The measures of a shard, and why each sample is dropped, or None; once duplicates are found."""
        measures = Measures.read(self._measures(name))
        verdicts = self.keep.judge(measures)
        if self.keep.unique:
            number = bisect_left(self.names, name)
            for row in duplicates.rows_of(_places(self.duplicates, number // duplicates.BLOCK), number):
                verdicts[row] = DUPLICATE
        return measures, verdicts

    def finish(self, write: bool = True) -> FilterReport:
        """The total of all reports; `write` the index too. ValueError: nothing passes."""
        reports = [FilterReport.read(self._report(name)) for name in self.names]
        total = FilterReport.total(reports, "all")
        shards = [dict(report.shard) for report in reports if report.shard is not None]
        if not shards:
            raise ValueError(f"nothing is left of {len(self.shards)} shards: {total}")
        if write:
            index = urls.join(str(self.output), INDEX)
            write_index(index, shards, {"filter": asdict(self.keep), "dropped": total.dropped})
        return total

    @property
    def duplicates(self) -> str:
        """The folder with the duplicates."""
        return urls.join(str(self.output), "duplicates")

    def _measures(self, name: str) -> str:
        return urls.join(str(self.measures), f"{name}.json")

    def _report(self, name: str) -> str:
        """The last file that is written of a shard."""
        return urls.join(str(self.output), f"{name}.report.json")

    def _share(self, step: str, context: DistributedContext) -> Iterator[int]:
        """The shards of this process that a step has to do, under a progress bar."""
        own = range(context.rank, len(self.names), context.world_size)
        missing = [number for number in self.unfinished(step) if number in own]
        done, hidden = len(own) - len(missing), context.rank != 0
        yield from Progress(missing, step, len(own), initial=done, unit="shard", disable=hidden)


@lru_cache(maxsize=2)
def _places(folder: str, block: int) -> np.ndarray:
    """The duplicates of a block of shards."""
    with urls.open_binary(urls.join(folder, duplicates.block_name(block))) as file:
        return np.load(io.BytesIO(file.read()), allow_pickle=False)


def read_recipe(path: Path) -> tuple[ScoreSettings, Keep]:
    """The content of a YAML file with `measuring` and `keep`; ValueError for another key or a wrong value."""
    from jsonargparse import ArgumentError

    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}")
    parser = recipe_parser()
    parser.add_class_arguments(ScoreSettings, "measuring")
    parser.add_class_arguments(Keep, "keep")
    try:
        with building():
            values = parser.instantiate(parser.parse_path(path))
    except ArgumentError as error:
        raise ValueError(f"{path} is no recipe of a filter: {one_sentence(error)}") from None
    return values.measuring, values.keep


def _kept(url: str, measures: Measures, verdicts: Sequence[str | None]) -> Iterator[RawSample]:
    """The samples that stay, unchanged."""
    tally = Tally()
    for row, raw in enumerate(read_samples(url, tally, reject_without_image)):
        if row >= len(verdicts) or raw["__key__"] != measures.keys[row]:
            break
        if verdicts[row] is None:
            yield raw
    if tally.sha256 != measures.sha256:
        raise ValueError(f"{urls.redact(url)} changed since it was measured: remove its measures, and measure again")
