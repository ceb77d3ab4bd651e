"""Prompts of the emoji world by kind, each with a known truth, and what the judge sees in a picture painted for it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ediffi.evaluation.datasets.captioned import CaptionedImage, Controls
from ediffi.evaluation.datasets.emoji.scene_judge import Reading, SceneJudge, centre, seen, share_inside
from ediffi.io import plain_json
from ediffi.io.files import sha256
from ediffi.io.images import open_image, rgb, square

FILE: Final = "scenes.jsonl"
JUDGE: Final = Path(__file__).with_name("judge")
INSIDE: Final = 0.5  # least share of a painted thing that has to be in its area
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "seen pairs": ("concept", "style"),
    "held-out pairs": ("concept", "style"),
    "two things": ("both", "relation", "style"),
    "unseen synonyms": ("concept", "style"),
    "style image": ("style", "concept"),
    "painted areas": ("inside", "each", "both"),
}
"""What is measured of the prompts of each kind, 0 or 1; of "each", the share of the painted things."""


class EmojiScenes:
    """The prompts in a folder that `python -m emojiworld suite` wrote (examples/emoji), and the judge.

    Args:
        root: the folder.
        kinds: of `KINDS`; all by default.
        judge: a folder with another judge than the one that ships.

    Raises:
        FileNotFoundError: the folder has no scenes.
        ValueError: a line or a kind is wrong, or the judge does not know a concept or style of the scenes.
    """

    def __init__(self, root: Path, kinds: Sequence[str] = tuple(KINDS), judge: str | None = None) -> None:
        path = root / FILE
        if not path.is_file():
            raise FileNotFoundError(f"no {FILE} in {root}: write it by `python -m emojiworld suite` (examples/emoji)")
        if unknown := [kind for kind in kinds if kind not in KINDS]:
            raise ValueError(f"no kind {unknown[0]!r} of prompts; there are {', '.join(KINDS)}")
        self.root, self.name, self.judge = root, "emoji", SceneJudge.load(Path(judge) if judge else JUDGE)
        self._scenes = {str(scene["key"]): scene for scene in _read(path) if scene["kind"] in kinds}
        self._check()
        self.protocol: Mapping[str, Any] = {
            "kinds": list(kinds),
            "scenes": sha256(path),
            "judge": dict(self.judge.protocol),
            "inside_means": f"at least {INSIDE} of a thing in its area; of both things, or of each by itself",
            "references": "the drawings themselves, of the captioned scenes",
        }

    def items(self) -> list[CaptionedImage]:
        """Every prompt."""
        return [CaptionedImage(key, scene["caption"], key) for key, scene in self._scenes.items()]

    def reference(self, item: CaptionedImage, size: int) -> Image.Image:
        """The picture of the item's scene, `size` pixels a side; ValueError if it is missing, broken or smaller."""
        image = rgb(open_image(self.root / "pictures" / f"{item.key}.png"))
        if min(image.size) < size:
            raise ValueError(f"the pictures in {self.root} are {image.width} a side; write them with --size {size}")
        return square(image, size)

    def controls(self, item: CaptionedImage) -> Controls:
        """The style image or the painted areas of the item, if it has any."""
        scene = self._scenes[item.key]
        style = self.root / "styles" / f"{item.key}.png" if scene["kind"] == "style image" else None
        areas = tuple((area["phrase"], tuple(area["box"])) for area in scene.get("areas", ()))
        return Controls(None if style is None else rgb(open_image(style)), areas)

    def measure(self, item: CaptionedImage, image: Image.Image) -> dict[str, float]:
        """What the judge sees, by kind and measure, as in "held-out pairs/concept"; nan for the other kinds."""
        scene, values = self._scenes[item.key], self._nothing()
        right = self._right(scene, self.judge.look(image))
        for measure in KINDS[scene["kind"]]:
            values[f"{scene['kind']}/{measure}"] = float(right[measure])
        return values

    def _right(self, scene: Mapping[str, Any], reading: Reading) -> dict[str, float]:
        wanted = [self.judge.concepts.index(thing["hexcode"]) for thing in scene["things"]]
        largest = seen(reading, len(wanted))
        found = set(largest) == set(wanted)
        style = self.judge.styles[int(np.argmax(reading.styles))] == scene["style"]
        right: dict[str, float] = {"concept": found, "both": found, "style": style}
        if scene["kind"] == "two things":
            (x1, y1), (x2, y2) = (centre(reading, concept) for concept in wanted)
            apart = {"left of": x2 - x1, "right of": x1 - x2, "above": y2 - y1, "below": y1 - y2}
            right["relation"] = found and apart[scene["relation"]] > 0
        if areas := scene.get("areas"):
            shares = [share_inside(reading, concept, area["box"]) for concept, area in zip(wanted, areas, strict=True)]
            inside = [one in largest and share >= INSIDE for one, share in zip(wanted, shares, strict=True)]
            right |= {"inside": all(inside), "each": sum(inside) / len(inside)}
        return right

    def _nothing(self) -> dict[str, float]:
        there = {scene["kind"] for scene in self._scenes.values()}
        return {f"{kind}/{name}": math.nan for kind, names in KINDS.items() if kind in there for name in names}

    def _check(self) -> None:
        concepts = {thing["hexcode"] for scene in self._scenes.values() for thing in scene["things"]}
        styles = {scene["style"] for scene in self._scenes.values()}
        known = {*self.judge.concepts, *self.judge.styles}
        if unknown := sorted((concepts | styles) - known):
            advice = "train a judge on these scenes (python -m emojiworld judge)"
            raise ValueError(f"the judge does not know {', '.join(unknown[:5])} of {self.root}: {advice}")


def _read(path: Path) -> list[dict[str, Any]]:
    scenes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            scene = plain_json.loads(line)
            if missing := {"key", "kind", "caption", "style", "things", "relation"} - scene.keys():
                raise ValueError(f"it has no {sorted(missing)[0]!r}")
            if scene["kind"] not in KINDS:
                raise ValueError(f"no kind {scene['kind']!r}")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}, line {number} is no scene: {error}") from None
        scenes.append(scene)
    return scenes
