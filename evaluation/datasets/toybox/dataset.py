"""Toybox as an evaluation dataset: held-out scenes, the renderer's images as references, the oracle's measures."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from ediffi.evaluation.datasets.captioned import CaptionedImage
from ediffi.evaluation.datasets.toybox.caption import Length, prompts
from ediffi.evaluation.datasets.toybox.oracle import read, score
from ediffi.evaluation.datasets.toybox.render import render
from ediffi.evaluation.datasets.toybox.scene import COUNTS


class Toybox:
    """`size` held-out scenes of one to three objects, whose attribute combinations training never sees."""

    def __init__(self, length: Length = "short", size: int = 5_000) -> None:
        cases = _cached_prompts(0, size, "test", length)
        self.name = "toybox"
        self.protocol: Mapping[str, Any] = {
            "split": "test",
            "captions": length,
            "scenes": size,
            "words_per_caption": round(float(np.mean([len(caption.text.split()) for _, caption in cases])), 1),
            "references": "the renderer's pictures of the captioned scenes",
        }
        self._cases = {f"{index:05d}": case for index, case in enumerate(cases)}

    def items(self) -> list[CaptionedImage]:
        """Every caption."""
        return [CaptionedImage(key, caption.text, key) for key, (_, caption) in self._cases.items()]

    def reference(self, item: CaptionedImage, size: int) -> Image.Image:
        """The rendered image of the item's scene, `size` pixels a side."""
        return Image.fromarray(render(self._cases[item.key][0], size))

    def measure(self, item: CaptionedImage, image: Image.Image) -> dict[str, float]:
        """The oracle's score: "oracle/shape", ... is 1 if all objects are right, nan if the caption does not name it.

        "oracle/everything" is 1 if all is right, and "oracle/everything, 2 objects" the same for scenes of two objects.
        """
        scene, caption = self._cases[item.key]
        fields = asdict(score(scene, caption, read(np.asarray(image.convert("RGB")))))
        values = {f"oracle/{name}": float("nan") if value is None else float(value) for name, value in fields.items()}
        for count in COUNTS:
            right = values["oracle/everything"] if len(scene.objects) == count else float("nan")
            values[f"oracle/everything, {count} object{'s' if count > 1 else ''}"] = right
        return values


_cached_prompts = cache(prompts)
