"""What an evaluation left in its folder, read again for a page or a table: captions, images, and the scores of each."""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from ediffi.evaluation.images.found import Match, find_images
from ediffi.evaluation.images.numbered import NumberedImages
from ediffi.evaluation.metrics.rows import BROKEN, PassLayout, RowFiles, read_layout
from ediffi.evaluation.naming import metric_name
from ediffi.evaluation.report.gallery import ReportSample, headline_point
from ediffi.evaluation.report.verdict import verdict
from ediffi.evaluation.results import Point, Results
from ediffi.io import files, plain_json
from ediffi.io.images import rgb, square

SELECTION: Final = "selection.jsonl"
PLACES: Final = "images.json"


def _checked(folder: Path, layout: PassLayout) -> RowFiles:
    """The rows in a folder. ValueError: they are not all measured, or were changed since."""
    rows = RowFiles(folder, layout)
    if missing := int((rows.read("states") == 0).sum()):
        raise ValueError(f"{missing} images of {folder} have not been measured yet; evaluate again")
    rows.check()
    return rows


def record_places(folder: Path, places: Mapping[str, Path], match: Match) -> None:
    """Note where the images of each point are, relative to `folder`, for pages that are made later; `match` as in
    `find_images`."""
    relative = {name: os.path.relpath(place.resolve(), folder.resolve()) for name, place in places.items()}
    known = {"match": match, "places": relative}
    files.replace(folder / PLACES, json.dumps(known, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation in its folder."""

    folder: Path
    results: Results

    @cached_property
    def captions(self) -> list[dict[str, str]]:
        """The chosen captions, in order: "key" and "caption"; empty if the evaluation had none."""
        path = self.folder / SELECTION
        if not path.is_file():
            return []
        try:
            found = [plain_json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
            if not all(isinstance(one[name], str) for one in found for name in ("key", "caption")):
                raise ValueError("a key or a caption is not a text")
            return found
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is broken ({error!r}); the same `ediffi evaluate` command writes it") from None

    def scores(self, point: Point) -> dict[str, np.ndarray]:
        """What was measured of each image [n], by name, nan where nothing was; "broken" is 1 if it was left out."""
        folder = self.folder / "rows" / point.name
        if (layout := read_layout(folder)) is None:
            raise FileNotFoundError(f"no measurements of {point.name} in {self.folder}; evaluate it again")
        rows = _checked(folder, layout)
        broken = rows.read("states") == BROKEN
        found = {"clip_score": rows.read("scores")} if layout.scored else {}
        for beside in sorted(folder.parent.glob(f"{glob.escape(folder.name)}@*")):
            if (own := read_layout(beside)) and own.scored:
                found[beside.name.rpartition("@")[2]] = _checked(beside, own).read("scores")
        found |= dict(zip(layout.fields, rows.read("measured").T, strict=True)) if layout.fields else {}
        found = {name: np.where(broken, np.nan, values.astype(np.float64)) for name, values in found.items()}
        return {**found, "broken": broken.astype(np.float64)}

    def features(self, point: Point) -> np.ndarray | None:
        """The features of each image [n, d]; None if there are none."""
        layout = read_layout(folder := self.folder / "rows" / point.name)
        return _checked(folder, layout).read("features") if layout and layout.width else None

    def images(self, point: Point) -> NumberedImages:
        """The images of a point. OSError or ValueError: they are not there any more."""
        path = self.folder / PLACES
        if not path.is_file():
            raise FileNotFoundError(f"no {PLACES} in {self.folder}; the same `ediffi evaluate` command writes it")
        try:
            known = plain_json.read(path)
            place, match = self.folder / known["places"][point.name], known["match"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is broken ({error!r}); the same `ediffi evaluate` command writes it") from None
        return find_images(place, [one["key"] for one in self.captions], match)

    def samples(self, numbers: Sequence[int]) -> Iterator[tuple[str, list[ReportSample]]]:
        """The images with these numbers, of each point by its name, with what was measured of them."""
        side = self.results.suite.get("image_size")
        for point in self.results.in_order:
            images, scores, found = self.images(point), self.scores(point), []
            for number in numbers:
                if scores["broken"][number]:
                    continue
                own = {name: float(values[number]) for name, values in scores.items() if "/" in name}
                judged = {name: float(values[number]) for name, values in scores.items() if is_score(name)}
                score = next(iter(judged.values()), _mean(own.values()))
                note = " · ".join(f"{metric_name(name)} {value:.3g}" for name, value in judged.items())
                image = rgb(images[number])
                image = square(image, side) if side and image.size != (side, side) else image
                caption = self.captions[number]["caption"]
                found.append(ReportSample(caption, image, *verdict(own), number, note, score))
            yield point.name, found

    def table(self) -> Iterator[dict[str, Any]]:
        """A row for each image of each point: its setting, number, id, caption, and what was measured; None for nan."""
        for point in self.results.in_order:
            scores = self.scores(point)
            if (count := len(scores["broken"])) != len(self.captions):
                raise ValueError(f"{self.folder / SELECTION} has {len(self.captions)} captions of {count} images")
            for number, item in enumerate(self.captions):
                values = {name: float(values[number]) for name, values in scores.items()}
                known = {name: None if np.isnan(value) else value for name, value in values.items()}
                known["broken"] = int(values["broken"])
                row = {"setting": point.name, "number": number, "id": item["key"], "caption": item["caption"]}
                yield row | known


def is_score(name: str) -> bool:
    """Whether a name of `StoredEvaluation.scores` is that of a CLIP or a scorer, and not of a dataset's measure."""
    return "/" not in name and name != "broken"


def _mean(values: Iterable[float]) -> float | None:
    """The mean of the values that are not nan; None if there are none."""
    known = [float(value) for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else None


def spreads(several: Sequence[StoredEvaluation]) -> tuple[dict[int, float], str]:
    """How much systems differ on each caption, by its number, and by what.

    By the range of their CLIP scores, or of what the first scorer says; else of the mean of what the dataset measures;
    else by the distance of their features from the first one's. Each system is taken at its `headline_point`.
    """
    points = [(one, headline_point(one.results)) for one in several]
    scores = [one.scores(point) for one, point in points]
    whole = ~np.any([own["broken"] > 0 for own in scores], axis=0)
    kinds = [name for name in scores[0] if "/" in name]
    judged = [name for name in scores[0] if is_score(name)]
    if judged and all(judged[0] in own for own in scores):
        values, what = np.stack([own[judged[0]] for own in scores]), f"the {metric_name(judged[0])}"
    elif kinds and all(set(kinds) <= own.keys() for own in scores):
        values = np.array([[_mean(own[name][n] for name in kinds) or 0.0 for n in range(len(whole))] for own in scores])
        what = "what the dataset measures"
    else:
        features = [rows for one, point in points if (rows := one.features(point)) is not None]
        if len(features) < len(points):
            return {}, ""
        apart = [np.linalg.norm(rows - features[0], axis=1) for rows in features]
        values, what = np.stack(apart), "the features of their images"
    ranges = values.max(0) - values.min(0)
    return {int(n): float(ranges[n]) for n in np.flatnonzero(whole & np.isfinite(ranges))}, what
