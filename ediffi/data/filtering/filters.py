"""Filter shards (eDiff-I, section 5: CLIP score, aesthetic score, image size).

First every shard is measured, then samples are judged, then the filtered shards are written. Of duplicates that pass
everything else, one is kept: the first sample of the first shard by name. So what is kept is a function of the shards
and the thresholds: not of the order of work, of resuming, or of the number of processes.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np

from ediffi.data.filtering.measure import Measures, measure
from ediffi.data.filtering.report import FilterReport
from ediffi.data.filtering.scorer import Scorer, ScoreSettings
from ediffi.data.index import INDEX, write_index
from ediffi.data.shards import reject_without_image, write_tar
from ediffi.data.tar import RawSample, Tally, read_samples
from ediffi.io import urls
from ediffi.io.distributed import DistributedContext
from ediffi.io.files import replace
from ediffi.io.progress import Progress
from ediffi.io.recipes import one_sentence, recipe_parser

DUPLICATE = "duplicate"


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
    `measures`. ValueError: two shards have one name, a threshold is on a score that is neither computed nor in the
    metadata, or a library is missing."""

    shards: Sequence[str]
    output: Path
    measures: Path
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

    def run(self, context: DistributedContext) -> FilterReport:
        """Measure, judge, write the shards and the index; finished files stay as they are. Returns the total.
        ValueError: the folders are of another run, a shard was changed since it was measured, or nothing passes."""
        scorer = Scorer(self.settings, context.device)
        if context.rank == 0:
            self._claim(scorer)
        context.gather(None)
        for name in self._unfinished("measure", self._measures_path, context):
            measure(self.by_name[name], self.settings, scorer).write(self._measures_path(name))
        context.gather(None)
        for name in self._unfinished("filter", self._report_path, context):
            measures, verdicts = self.verdicts(name)
            shard = None
            if None in verdicts:
                path = self.output / f"{name}.tar"
                shard = {"file": path.name, **write_tar(path, _kept(self.by_name[name], measures, verdicts))}
            FilterReport.of(measures, verdicts, shard).write(self._report_path(name))
        context.gather(None)
        reports = [FilterReport.read(self._report_path(name)) for name in self.by_name]
        total = FilterReport.total(reports, "all")
        shards = [dict(report.shard) for report in reports if report.shard is not None]
        if context.rank == 0 and shards:
            write_index(self.output / INDEX, shards, {"filter": asdict(self.keep), "dropped": total.dropped})
        context.gather(None)
        if not shards:
            raise ValueError(f"nothing is left of {len(self.shards)} shards: {total}")
        return total

    def verdicts(self, name: str) -> tuple[Measures, list[str | None]]:
        """The measures of a shard, and why each sample is dropped, or None; once all shards are measured."""
        measures = Measures.read(self._measures_path(name))
        verdicts = self.keep.judge(measures)
        if self.keep.unique:
            passing = [row for row, reason in enumerate(verdicts) if reason is None]
            for row, is_first in zip(passing, self._firsts[name], strict=True):
                verdicts[row] = None if is_first else DUPLICATE
        return measures, verdicts

    def _measures_path(self, name: str) -> Path:
        return self.measures / f"{name}.json"

    def _report_path(self, name: str) -> Path:
        """The last file that is written of a shard."""
        return self.output / f"{name}.report.json"

    def _claim(self, scorer: Scorer) -> None:
        """Write down what the folders are for, or check that they are for the same."""
        measured = {"measuring": scorer.claim()}
        filtered = measured | {"keep": asdict(self.keep), "shards": list(self.by_name)}
        for note, what, content in (
            (self.measures / "measures.claim", "measures", measured),
            (self.output / "filter.json", "a filter", filtered),
        ):
            note.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
            if not note.exists():
                replace(note, text)
            elif note.read_text(encoding="utf-8") != text:
                raise ValueError(f"{note.parent} holds {what} of other shards or settings; choose another folder")

    def _unfinished(self, what: str, path: Callable[[str], Path], context: DistributedContext) -> Iterator[str]:
        """The shards of this process without the file of this step, under a progress bar."""
        names = list(self.by_name)[context.rank :: context.world_size]
        missing = [name for name in names if not path(name).is_file()]
        hidden = context.rank != 0
        return iter(
            Progress(missing, what, len(names), initial=len(names) - len(missing), unit="shard", disable=hidden)
        )

    @cached_property
    def _firsts(self) -> dict[str, np.ndarray]:
        """By shard, which samples that pass everything else are the first of their duplicates; 24 bytes a sample."""
        hashes, lengths = [np.empty(0, "S16")], []
        for name in self.by_name:
            measures = Measures.read(self._measures_path(name))
            judged = zip(measures.hashes, self.keep.judge(measures), strict=True)
            passing = [digest for digest, reason in judged if reason is None]
            hashes.append(np.frombuffer(bytes.fromhex("".join(passing)), dtype="S16"))
            lengths.append(len(passing))
        # np.unique gives the first index of each hash, so the order of `by_name` decides, not the order of the work.
        first = np.zeros(sum(lengths), dtype=bool)
        first[np.unique(np.concatenate(hashes), return_index=True)[1]] = True
        return dict(zip(self.by_name, np.split(first, np.cumsum(lengths)[:-1]), strict=True))


def read_recipe(path: Path) -> tuple[ScoreSettings, Keep]:
    """The content of a YAML file with `measuring` and `keep`; ValueError for another key or a wrong value."""
    from jsonargparse import ArgumentError

    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}")
    parser = recipe_parser()
    parser.add_class_arguments(ScoreSettings, "measuring")
    parser.add_class_arguments(Keep, "keep")
    try:
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
