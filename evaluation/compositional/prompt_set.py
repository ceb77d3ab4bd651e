"""Prompts of a compositional benchmark as a data set: several pictures a prompt, and no real ones to compare with."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ediffi.evaluation.compositional.prompts import Prompt
from ediffi.evaluation.datasets.captioned import Item
from ediffi.evaluation.images.claim import settings_hash


class PromptSet:
    """A benchmark's prompts, each for `images_per_prompt` pictures; `CaptionedPictures` without references.

    Picture k is of prompt k // images_per_prompt. Keys are "00007" for the prompt in row 7, and "00007-2" for its
    third picture where there are several.

    Args:
        name: of the benchmark.
        prompts: in the order of its file; the same text may stand there twice.
        images_per_prompt: how many pictures the benchmark wants of each.

    Raises:
        ValueError: there are no prompts, or `images_per_prompt` is below 1.
    """

    def __init__(self, name: str, prompts: Sequence[Prompt], images_per_prompt: int = 1) -> None:
        if not prompts:
            raise ValueError(f"{name} has no prompts")
        if images_per_prompt < 1:
            raise ValueError(f"images_per_prompt must be at least 1, got {images_per_prompt}")
        self.name, self.prompts, self.images_per_prompt = name, list(prompts), images_per_prompt
        self.protocol: Mapping[str, Any] = {
            "prompts": len(self.prompts),
            "images_per_prompt": images_per_prompt,
            "sha256": settings_hash({"prompts": [[prompt.text, prompt.metadata] for prompt in self.prompts]}),
            "references": "none",
        }

    def __len__(self) -> int:
        """How many pictures there are to be."""
        return len(self.prompts) * self.images_per_prompt

    def items(self) -> list[Item]:
        """A caption for each picture, in order."""
        keys = [f"{row:05d}" for row in range(len(self.prompts))]
        if self.images_per_prompt > 1:
            keys = [f"{key}-{sample}" for key in keys for sample in range(self.images_per_prompt)]
        return [Item(key, self.prompts[k // self.images_per_prompt].text, key) for k, key in enumerate(keys)]

    def reference(self, item: Item, size: int) -> Image.Image:
        """There is none.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self.name} has no reference pictures, so there is no FID on it")

    def measure(self, item: Item, image: Image.Image) -> dict[str, float]:
        """Nothing: its own scripts measure."""
        return {}
