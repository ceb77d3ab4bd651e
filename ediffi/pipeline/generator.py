"""A cascade as `evaluation` wants whoever makes its pictures: settings, and a call with prompts and a number."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ediffi.io import files, png
from ediffi.pipeline import folder
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.manifest import Residency


class CascadeGenerator:
    """Pictures of a cascade by number: picture k is a function of (seed, k), its prompt, the settings and its batch.

    How many threads the processor uses changes last bits, since sums are split among them. So their number is a
    setting, and not a matter of how many processes share the machine: one by default, and more processes for more
    cores.

    Args:
        cascade: the model.
        identity: plain JSON values that say which model it is, beyond its name.
        seed: of all pictures.
        threads: of the processor, while pictures are made.
        options: of `Cascade.__call__`, the same for all pictures.

    Raises:
        ValueError: `threads` is below 1, or an option is out of range.
    """

    def __init__(
        self,
        cascade: Cascade,
        identity: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        threads: int = 1,
        **options: Any,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        self.cascade, self.threads, self.options = cascade, threads, {"seed": seed, **options}
        plan = cascade.plan(**{n: v for n, v in options.items() if n in inspect.signature(cascade.plan).parameters})
        self.settings: Mapping[str, Any] = {
            **cascade.request(**self.options),
            **(identity or {}),
            "guidance_scale": plan[0].guidance_scale,
            "nfe": sum(sampling.nfe for sampling in plan),
            "threads": threads,
        }
        """What the pictures depend on; "guidance_scale" is the base stage's, "nfe" is of all stages."""

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        device: str | torch.device = "cpu",
        expert_residency: Residency = "resident",
        **options: Any,
    ) -> "CascadeGenerator":
        """Load a cascade; raises as `ediffi.pipeline.folder.load` does.

        Args:
            model: "toybox", the one that ships, or a folder.
            device: where its networks stand.
            expert_residency: see `Cascade.from_pretrained`.
            options: `seed`, `threads`, and those of `Cascade.__call__`.
        """
        return cls(Cascade.from_pretrained(model, device, expert_residency), identity(model), **options)

    def __call__(self, prompts: Sequence[str], first_index: int) -> list[Image.Image]:
        """A picture for each prompt, which carries the settings that `ediffi inspect` shows."""
        with _threads(self.threads):
            pictures = self.cascade(prompts, first_index=first_index, **self.options)
        return [
            png.describe(image, {**pictures.settings, "prompt": prompt, "first_index": index, "index": 0})
            for index, (prompt, image) in enumerate(zip(prompts, pictures.images, strict=True), start=first_index)
        ]


def identity(model: str | Path) -> dict[str, str]:
    """Which model it is: the hash of its `config.json`, in which the hash of each stage's weights stands.

    Raises:
        FileNotFoundError: there is no such model.
    """
    return {"model_sha256": files.sha256(folder.locate(model) / folder.CONFIG)}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
