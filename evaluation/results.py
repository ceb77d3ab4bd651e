"""The results of an evaluation: the numbers, and with each everything that is needed to repeat it."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from ediffi.io import plain_json
from ediffi.io.files import replace

FORMAT = "ediffi-evaluation-1"
FILE = "results.json"
MAX_POINTS, MAX_METRICS = 100, 1000
"""Guidance scales of an evaluation, and numbers of each: a comparison's page has each pair of points."""

COMPARED = (
    *("dataset", "selection", "images", "feature_extractor", "more_features", "clip", "scorers", "reference"),
    "guidance",
)
"""Parts of the protocol that must agree for numbers in one figure."""


@dataclass(frozen=True)
class Point:
    """The numbers of one setting of a model."""

    name: str  # "guidance-3"; also of the folder with its images, beside the results
    count: int  # judged images
    metrics: Mapping[str, float]  # "fid", "kid_mean", "clip_score", ...; of the dataset: "oracle/everything", ...
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the images, plain JSON; empty if they are not known
    notices: Sequence[str] = ()  # sentences for the reader of the numbers
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)  # low and high end, by metric

    @property
    def guidance_scale(self) -> float | None:
        """w of `uncond + w (cond - uncond)` in the base stage, 1 = off; None if it is not known."""
        return self.settings.get("guidance_scale")

    @property
    def nfe(self) -> int | None:
        """Network evaluations of all stages; None if they are not known."""
        return self.settings.get("nfe")

    def metric(self, name: str) -> float | None:
        """A metric; None if it was not measured, or is not a finite number."""
        value = self.metrics.get(name, math.nan)
        return value if math.isfinite(value) else None

    def interval(self, name: str) -> tuple[float, float] | None:
        """The low and the high end of a metric's interval; None if it has none."""
        low, high = self.intervals.get(name, (math.nan, math.nan))
        return (low, high) if math.isfinite(low) and math.isfinite(high) else None

    @property
    def title(self) -> str:
        """The title in tables: "guidance 3", or the name if the guidance scale is not known."""
        return self.name if self.guidance_scale is None else f"guidance {self.guidance_scale:g}"


@dataclass(frozen=True)
class Results:
    """An evaluation of one model by one suite, as plain JSON."""

    model: str
    suite: Mapping[str, Any]  # "name", "dataset", "count", ...
    protocol: Mapping[str, Any]  # what the numbers depend on, by part: see `Judge.protocol`; and "command"
    points: Sequence[Point]

    def title(self, point: Point) -> str:
        """The model and the setting of a point; once if they have one name, as images from elsewhere have."""
        return self.model if point.title == self.model else f"{self.model}, {point.title}"

    @property
    def in_order(self) -> list[Point]:
        """The points by guidance scale, as a curve connects them; points without one keep their order and come last."""
        return sorted(self.points, key=lambda point: (point.guidance_scale is None, point.guidance_scale or 0))

    def best(self, metric: str, lowest: bool = True) -> Point | None:
        """The first point with the lowest (or highest) value of a metric; None if no point has one."""
        measured = [(value, point) for point in self.points if (value := point.metric(metric)) is not None]
        return (min if lowest else max)(measured, key=lambda pair: pair[0])[1] if measured else None

    def write(self, folder: Path) -> Path:
        """Write `results.json`; nan and infinities become null."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, **asdict(self)}
        for point in content["points"]:
            point["metrics"] = {k: value if math.isfinite(value) else None for k, value in point["metrics"].items()}
            point["intervals"] = {
                k: list(ends) for k, ends in point["intervals"].items() if all(map(math.isfinite, ends))
            }
        content = json.loads(json.dumps(content))
        content["sha256"] = _content_hash(content)
        replace(folder / FILE, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        return folder / FILE

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Read `results.json` of a folder; null becomes nan. ValueError: it is broken, or of another format."""
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(f"no {FILE} in {folder}; `ediffi evaluate` writes it")
        try:
            content = plain_json.read(path)
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                found = content.get("format") if isinstance(content, dict) else None
                raise ValueError(f"it has the format {found!r}, and this version reads {FORMAT!r}")
            if "sha256" in content and content["sha256"] != _content_hash(content):
                raise ValueError("it has another sha256 than it says, so it was changed")
            model, suite, protocol = content["model"], content["suite"], content["protocol"]
            if not (isinstance(model, str) and isinstance(suite, dict) and isinstance(protocol, dict)):
                raise ValueError("model must be a text, and suite and protocol objects")
            if len(content["points"]) > MAX_POINTS:
                raise ValueError(f"it has {len(content['points'])} points; at most {MAX_POINTS} are allowed")
            return cls(model, suite, protocol, [_point(point) for point in content["points"]])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds no results: {error}") from None


def _content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the values of `results.json`, without the hash itself; files of earlier versions have none."""
    plain = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _point(content: Mapping[str, Any]) -> Point:
    """A point of a file, with the types of its values checked."""
    if len(content["metrics"]) > MAX_METRICS:
        raise ValueError(f"a point has {len(content['metrics'])} metrics; at most {MAX_METRICS} are allowed")
    metrics = {name: math.nan if value is None else value for name, value in content["metrics"].items()}
    settings, notices = content.get("settings", {}), tuple(content.get("notices", ()))
    known = [settings[name] for name in ("guidance_scale", "nfe") if settings.get(name) is not None]
    for value in (content["count"], *metrics.values(), *known):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} should be a number")
    if not all(isinstance(text, str) for text in (content["name"], *notices)):
        raise ValueError("names and notices must be texts")
    intervals = {name: (float(low), float(high)) for name, (low, high) in content.get("intervals", {}).items()}
    return Point(**{**content, "metrics": metrics, "notices": notices, "intervals": intervals})


ADVICE = {"images.other_sizes": "; evaluate both with --other-sizes resized, into new folders"}
"""What to do about fields in which protocols differ."""


def check_comparable(several: Sequence[Results]) -> None:
    """Check that evaluations may share a figure: one dataset, one selection, one reference, the same networks.

    Library versions may differ ("versions", and "library" of a network). An evaluation may lack a part, such as the
    CLIP score, if it has no numbers of it.
    """
    for one, other in combinations(several, 2):
        for mine, theirs in _sections(one, other):
            for name in dict.fromkeys([*mine, *theirs]):
                if (a := mine.get(name)) != (b := theirs.get(name)):
                    models = f"{one.model} and {other.model}"
                    reason = f"{models} were judged by different protocols and cannot be compared"
                    raise ValueError(f"{reason}: {name} is {_brief(a)} and {_brief(b)}{ADVICE.get(name, '')}")


def _sections(one: Results, other: Results) -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
    """The fields that must agree, by dotted names, in the parts that both have; the plainest first."""

    def leaves(results: Results, part: str) -> dict[str, Any]:
        found = dict(flattened(results.protocol[part], part))
        # The hash of a reference covers its library's version; it counts only if nothing else identifies the images.
        hashed = "reference.pictures" in found or "reference.file_sha256" in found
        if "reference.pictures" in found:
            found.setdefault("reference.which", "chosen")  # there was no other when results did not say it
        ignored: tuple[str, ...] = (".library", "reference.sha256") if hashed else (".library",)
        # A CLIP in a folder has the folder's name; its weights and the resize say which one it is.
        ignored += ("clip.name",) if part == "clip" and "clip.weights" in found else ()
        return {name: value for name, value in found.items() if not name.endswith(ignored)}

    pair = one, other
    first, second = [{f"suite.{key}": r.suite.get(key) for key in ("dataset", "count", "image_size")} for r in pair]
    yield first, second
    counts = [sorted({point.count for point in results.points}) for results in pair]
    if all(counts):
        yield {"count": counts[0]}, {"count": counts[1]}
    for part in COMPARED:
        if all(results.protocol.get(part) is not None for results in pair):
            yield leaves(one, part), leaves(other, part)


def flattened(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Leaves of nested plain JSON, each with its dotted name; a list of plain values is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flattened(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
        for index, inner in enumerate(value):
            yield from flattened(inner, f"{name}.{index}")
    else:
        yield name, value


def _brief(value: Any) -> str:
    """A value for a message; a hash is shortened."""
    text = str(value[0] if isinstance(value, list) and len(value) == 1 else value)
    return text if len(text) <= 40 else f"{text[:12]}…"
