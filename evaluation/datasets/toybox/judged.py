"""Toybox as a data set that models are judged on: held-out scenes, the renderer's pictures, the oracle's word."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from ediffi.evaluation.datasets.captioned import Item
from ediffi.evaluation.datasets.toybox.caption import Caption, Length, prompts
from ediffi.evaluation.datasets.toybox.oracle import read
from ediffi.evaluation.datasets.toybox.render import render
from ediffi.evaluation.datasets.toybox.scene import Scene
from ediffi.evaluation.datasets.toybox.scoring import score


class Toybox:
    """Held-out scenes with captions, of one to three objects; their attribute combinations are never shown in training.

    Args:
        length: of the captions, "short" or "long".
        size: how many scenes there are to select from.

    Raises:
        ValueError: `length` is neither.
    """

    def __init__(self, length: Length = "short", size: int = 5_000) -> None:
        cases = _cases(length, size)
        self.name = "toybox"
        self.protocol: Mapping[str, Any] = {
            "split": "test",
            "captions": length,
            "scenes": size,
            "words_per_caption": round(float(np.mean([len(caption.text.split()) for _, caption in cases])), 1),
            "references": "the renderer's pictures of the captioned scenes",
        }
        self._cases = {f"{index:05d}": case for index, case in enumerate(cases)}

    def items(self) -> list[Item]:
        """Every caption."""
        return [Item(key, caption.text, key) for key, (_, caption) in self._cases.items()]

    def reference(self, item: Item, size: int) -> Image.Image:
        """The renderer's picture of the item's scene, `size` a side."""
        return Image.fromarray(render(self._cases[item.key][0], size))

    def measure(self, item: Item, image: Image.Image) -> dict[str, float]:
        """What the oracle reads: "oracle/shape", ... is 1 if that is right of every object, nan if nobody asked for it.

        "oracle/everything" is 1 if all is right, and "oracle/everything, 2 objects" the same of scenes with two.

        Raises:
            ValueError: the picture is smaller than the oracle can read.
        """
        scene, caption = self._cases[item.key]
        fields = asdict(score(scene, caption, read(np.asarray(image.convert("RGB")))))
        values = {f"oracle/{name}": float("nan") if value is None else float(value) for name, value in fields.items()}
        for count in (1, 2, 3):
            right = values["oracle/everything"] if len(scene.objects) == count else float("nan")
            values[f"oracle/everything, {count} object{'s' if count > 1 else ''}"] = right
        return values


@cache
def _cases(length: Length, size: int) -> Sequence[tuple[Scene, Caption]]:
    return prompts(0, size, "test", length)
