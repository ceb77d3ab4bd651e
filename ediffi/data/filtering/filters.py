"""From shards as they come to shards worth training on (eDiff-I, section 5: CLIP score, aesthetic score, size).

First every shard is measured, then samples are judged, then the filtered shards are written. Of duplicates the one
whose shard comes first by name is kept, and in a shard the first one; among those that pass everything else. So what is
kept is a function of the shards and the thresholds: not of the order they are worked on, of restarts, or of how many
processes share them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from ediffi.data.filtering.measure import Measures, has_picture, measure
from ediffi.data.filtering.report import Report, values_of
from ediffi.data.filtering.scorer import Measuring, Scorer
from ediffi.data.index import INDEX, write_index
from ediffi.data.shards import write_tar
from ediffi.data.tar import Raw, Tally, read_samples
from ediffi.io import urls
from ediffi.io.distributed import DistributedContext
from ediffi.io.files import replace

CLAIM, DUPLICATE = "filter.json", "duplicate"


@dataclass(frozen=True)
class Keep:
    """What is kept.

    Args:
        short_side_above: the shortest side has more pixels than this: 64, 256 or 1024 in the paper's three stages.
        alignment: the least cosine of picture and caption; None to keep any.
        aesthetic: the least mark; None to keep any.
        caption: only samples with a caption.
        unique: of duplicates, only one.

    Raises:
        ValueError: `short_side_above` is negative, or `alignment` no cosine.
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
            raise ValueError(f"aesthetic must be a number, got {self.aesthetic}")

    def judge(self, measures: Measures) -> list[str | None]:
        """Why each sample is dropped, the first reason that holds, or None; duplicates are not looked for."""
        verdicts = list(measures.problems)
        for row, captioned in enumerate(measures.captioned):
            if self.caption and not captioned:
                verdicts[row] = verdicts[row] or "no caption"
        limits = (("alignment", self.alignment), ("aesthetic", self.aesthetic))
        short = values_of(measures, "short_side") <= self.short_side_above
        tests: list[tuple[str, np.ndarray]] = [(f"short side at most {self.short_side_above}", short)]
        for name, least in limits:
            if least is not None:
                values = values_of(measures, name)
                tests += [(f"no {name} score", np.isnan(values)), (f"{name} below {least:g}", values < least)]
        for reason, failed in tests:
            for row in np.flatnonzero(failed):
                verdicts[row] = verdicts[row] or reason
        return verdicts


@dataclass(frozen=True)
class Job:
    """A run of the filter.

    Args:
        shards: files or URLs; their file names are those of the filtered shards.
        output: folder of the filtered shards.
        measures: folder of the measures; several filters may share it.
        measuring: what is measured.
        keep: what is kept.

    Raises:
        ValueError: two shards have one name, a threshold is on a score that nobody tells or measures, or a library is
            missing.
    """

    shards: Sequence[str]
    output: Path
    measures: Path
    measuring: Measuring
    keep: Keep

    def __post_init__(self) -> None:
        names = self.names()
        if len(names) < len(self.shards):
            raise ValueError(f"{len(self.shards) - len(names)} of the shards have the file name of another one")
        told, parts = self.measuring, (self.measuring.clip_text, self.measuring.aesthetic)
        known = ((told.similarity, parts[0], "alignment"), (told.aesthetic_score, parts[1], "aesthetic"))
        for field, part, name in known:
            if getattr(self.keep, name) is not None and field is None and part is None:
                raise ValueError(f"keep.{name} is a threshold on a score that is neither told nor measured")
        if self.measuring.hash == "perceptual" and find_spec("imagehash") is None:
            raise ValueError("perceptual hashes need imagehash: pip install 'ediffi[data]', or let hash be bytes")

    def names(self) -> dict[str, str]:
        """The shards by name, in the order that decides between duplicates."""
        found = {PurePosixPath(urls.redact(place)).name.removesuffix(".tar"): place for place in self.shards}
        return dict(sorted(found.items()))

    def run(self, fleet: DistributedContext) -> Report:
        """Measure, judge, write the shards and the index; what is there already is left as it is.

        Returns:
            The total.

        Raises:
            OSError: a shard cannot be read, or a file not written.
            ValueError: the folders are of another run, a shard has changed meanwhile, or nothing is left.
        """
        scorer = Scorer(self.measuring, fleet.device)
        if fleet.rank == 0:
            self._claim(scorer)
        fleet.gather(None)
        mine = list(self.names().items())[fleet.rank :: fleet.world_size]
        self._measure(mine, scorer, fleet)
        fleet.gather(None)
        for name, place in self._bar(mine, "filter", fleet):
            if not self.report_path(name).is_file():
                self._write(name, place)
        fleet.gather(None)
        total = Report.total([Report.read(self.report_path(name)) for name in self.names()], "all")
        if fleet.rank == 0:
            self._finish(total)
        fleet.gather(None)
        if not total.kept:
            raise ValueError(f"nothing is left of {len(self.shards)} shards: {total}")
        return total

    def measures_path(self, name: str) -> Path:
        """The file with the measures of a shard."""
        return self.measures / f"{name}.json"

    def report_path(self, name: str) -> Path:
        """The file with the report on a shard; it is the last that is written of it."""
        return self.output / f"{name}.report.json"

    def verdicts(self, name: str) -> tuple[Measures, list[str | None]]:
        """The measures of a shard, and why each sample is dropped, or None; when all shards are measured."""
        first = self._firsts[name] if self.keep.unique else None
        measures = Measures.read(self.measures_path(name))
        verdicts = self.keep.judge(measures)
        passing = [row for row, reason in enumerate(verdicts) if reason is None]
        for row, is_first in zip(passing, passing if first is None else first, strict=True):
            if first is not None and not is_first:
                verdicts[row] = DUPLICATE
        return measures, verdicts

    def _claim(self, scorer: Scorer) -> None:
        """Write down what the folders are for, or make sure that they are for this."""
        measured = {"measuring": scorer.claim()}
        filtered = measured | {"keep": asdict(self.keep), "shards": list(self.names())}
        for folder, what, content in ((self.measures, "measures", measured), (self.output, "a filter", filtered)):
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / ("measures.claim" if what == "measures" else CLAIM)
            text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)
            if not note.exists():
                replace(note, text.encode())
            elif note.read_text(encoding="utf-8") != text:
                raise ValueError(f"{folder} holds {what} of other shards or settings; choose another folder")

    def _measure(self, mine: Sequence[tuple[str, str]], scorer: Scorer, fleet: DistributedContext) -> None:
        for name, place in self._bar(mine, "measure", fleet):
            if not self.measures_path(name).is_file():
                measure(place, self.measuring, scorer).write(self.measures_path(name))

    def _bar(self, mine: Sequence[tuple[str, str]], what: str, fleet: DistributedContext) -> Iterator[tuple[str, str]]:
        path = self.measures_path if what == "measure" else self.report_path
        missing = [(name, place) for name, place in mine if not path(name).is_file()]
        hidden = None if fleet.rank == 0 else True
        return iter(tqdm(missing, what, len(mine), initial=len(mine) - len(missing), unit="shard", disable=hidden))

    @cached_property
    def _firsts(self) -> dict[str, np.ndarray]:
        """By shard: of the samples that pass everything else, which are the first of their duplicates.

        It takes 24 bytes a sample: 128 bits of hash and a place.
        """
        hashes, lengths = [], {}
        for name in self.names():
            measures = Measures.read(self.measures_path(name))
            passing = [
                hash_ for hash_, reason in zip(measures.hashes, self.keep.judge(measures), strict=True) if not reason
            ]
            hashes.append(np.frombuffer(bytes.fromhex("".join(passing)), dtype="S16"))
            lengths[name] = len(passing)
        every = np.concatenate(hashes) if hashes else np.empty(0, "S16")
        first = np.zeros(len(every), dtype=bool)
        first[np.unique(every, return_index=True)[1]] = True
        return dict(zip(lengths, np.split(first, np.cumsum(list(lengths.values()))[:-1]), strict=True))

    def _write(self, name: str, place: str) -> None:
        measures, verdicts = self.verdicts(name)
        shard = None
        if None in verdicts:
            path = self.output / f"{name}.tar"
            shard = {"file": path.name, **write_tar(path, _kept(place, measures, verdicts))}
        Report.of(measures, verdicts, shard).write(self.report_path(name))

    def _finish(self, total: Report) -> None:
        reports = [Report.read(self.report_path(name)) for name in self.names()]
        shards = [dict(report.shard) for report in reports if report.shard is not None]
        if shards:
            description = {"filter": asdict(self.keep), "dropped": total.dropped}
            write_index(self.output / INDEX, shards, description)


def read_recipe(path: Path) -> tuple[Measuring, Keep]:
    """What a YAML file says under `measuring` and `keep`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it says something else, or something wrong.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    if not path.is_file():
        raise FileNotFoundError(f"no recipe {path}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Measuring, "measuring")
    parser.add_class_arguments(Keep, "keep")
    try:
        values = parser.instantiate(parser.parse_path(path))
    except ArgumentError as error:
        raise ValueError(f"{path} is no recipe of a filter: {' '.join(str(error).split())}") from None
    return values.measuring, values.keep


def _kept(place: str, measures: Measures, verdicts: Sequence[str | None]) -> Iterator[Raw]:
    """The samples that stay, as they are."""
    tally = Tally()
    for row, raw in enumerate(read_samples(place, tally, has_picture)):
        if row >= len(verdicts) or raw["__key__"] != measures.keys[row]:
            break
        if verdicts[row] is None:
            yield raw
    if tally.sha256 != measures.sha256:
        raise ValueError(
            f"{urls.redact(place)} is not the shard that was measured: remove its measures, and measure again"
        )
