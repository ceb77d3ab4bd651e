"""What an evaluation comes to: the numbers, and beside each everything that is needed to repeat it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "ediffi-evaluation-1"
FILE = "results.json"


@dataclass(frozen=True)
class Point:
    """What one setting of a model came to.

    Attributes:
        name: of the setting, "guidance-3"; also of the folder beside the results, where its pictures were made here.
        count: how many pictures were judged.
        metrics: "fid", "kid_mean", "kid_std", "precision", "recall", "clip_score" (100 times the mean cosine); and what
            the data set measures itself, such as "oracle/everything".
        settings: what the pictures were made with, plain JSON; "guidance_scale" and "nfe" where they are known. Empty
            for pictures of another system.
        notices: what a reader of the numbers has to know, a sentence each.
    """

    name: str
    count: int
    metrics: Mapping[str, float]
    settings: Mapping[str, Any] = field(default_factory=dict)
    notices: Sequence[str] = ()

    @property
    def guidance_scale(self) -> float | None:
        """w of `uncond + w (cond - uncond)` in the base stage, 1 = off; None if it is not known."""
        return self.settings.get("guidance_scale")

    @property
    def nfe(self) -> int | None:
        """Network evaluations of all stages; None if it is not known."""
        return self.settings.get("nfe")


@dataclass(frozen=True)
class Results:
    """An evaluation of one model by one suite.

    Attributes:
        model: its name.
        suite: the suite, as plain JSON: "name", "dataset", "count", ...
        protocol: "dataset" (what was read), "selection" (sha256, count, seed), "reference" (resize rule, sha256 of the
            statistics' key), "feature_extractor" (name, layer, weights' sha256, resize rule), "clip" (likewise),
            "versions" (of the libraries), "guidance" (the convention in words).
        points: one for each setting.
    """

    model: str
    suite: Mapping[str, Any]
    protocol: Mapping[str, Any]
    points: Sequence[Point]

    def write(self, folder: Path) -> Path:
        """Write `results.json`, beside its place and then into it; nan is written as null."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, **asdict(self)}
        for point in content["points"]:
            point["metrics"] = {name: value if value == value else None for name, value in point["metrics"].items()}
        beside = folder / f"{FILE}.tmp"
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        beside.replace(folder / FILE)
        return folder / FILE

    @classmethod
    def read(cls, folder: Path) -> "Results":
        """Read `results.json` of a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is broken, or of another format.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                found = content.get("format") if isinstance(content, dict) else None
                raise ValueError(f"it has the format {found!r}, and this version reads {FORMAT!r}")
            points = [
                Point(**point | {"metrics": {k: float("nan") if v is None else v for k, v in point["metrics"].items()}})
                for point in content["points"]
            ]
            return cls(content["model"], content["suite"], content["protocol"], points)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} holds no results: {error}") from None
