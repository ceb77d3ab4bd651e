"""The result of a generation: images, with the settings that repeat them."""

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, overload

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi.io import png
from ediffi.io.images import to_images

OutputType = Literal["pil", "np", "pt"]
"""Pillow images; a NumPy array [b, h, w, 3] from 0 to 1; or a tensor [b, 3, h, w] from 0 to 1."""
SHOWN = 256
"""Largest side in pixels of an image in a notebook."""


@dataclass(frozen=True, repr=False)
class Images(Sequence[Any]):
    """The result of a generation, a sequence of its images.

    Attributes:
        images: RGB, those of one prompt together; of `output_type` "pil" a list of Pillow images, else an array or a
            tensor, see `OutputType`.
        stages: images in [-1, 1] after each stage that ran, by its name.
        settings: JSON values that repeat the images: prompts, seed, each stage's sampling.
        draw_noise: draws `noise` again.
        inputs: makes PNG files of the images that the call was made from, which `save` puts into each image.
    """

    images: Any
    stages: Mapping[str, Float[Tensor, "b 3 h w"]]
    settings: Mapping[str, Any]
    draw_noise: Callable[[], Mapping[str, Tensor]] = field(default=dict, compare=False)
    inputs: Callable[[], Mapping[str, bytes]] = field(default=dict, compare=False)

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Any: ...
    def __getitem__(self, index: int | slice) -> Any:
        """An image, or several, in the form of `images`."""
        return self.images[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.images)

    @property
    def noise(self) -> Mapping[str, Float[Tensor, "b 3 h w"]]:
        """The standard normal noise that each stage started from, by its name: the argument `noise` of a call."""
        return self.draw_noise()

    def pil(self) -> list[Image.Image]:
        """The images as Pillow images, new ones."""
        return to_images(list(self.stages.values())[-1])

    def save(self, output: str | Path) -> list[Path]:
        """Write the images as PNG files with their settings, which `ediffi inspect` shows; returns their paths.

        One image goes to `output`, several to out-0.png, out-1.png, ... beside it. ValueError: `output` does not end in
        .png. OSError: it cannot be written.
        """
        paths = png.numbered(Path(output), len(self))
        inputs = self.inputs()
        for index, (path, image) in enumerate(zip(paths, self.pil(), strict=True)):
            png.save(image, path, {**self.settings, "index": index}, inputs)
        return paths

    def prompt_of(self, index: int) -> str:
        """The prompt of an image; empty if it was made from embeddings."""
        prompt = self.settings.get("prompt")
        if prompt is None or isinstance(prompt, str):
            return prompt or ""
        return str(prompt[index // int(self.settings.get("num_images_per_prompt", 1))])

    def __repr__(self) -> str:
        height, width = list(self.stages.values())[-1].shape[-2:]
        seed = self.settings.get("seed")
        return f"<{len(self)} images of {width}x{height}, {self.prompt_of(0)!r}, seed {seed}>"

    def _repr_html_(self) -> str:
        """The images with their prompts, as a notebook shows them."""
        figures = ""
        for index, image in enumerate(self.pil()):
            image.thumbnail((SHOWN, SHOWN))
            source, text = png.data_url(image), html.escape(self.prompt_of(index))
            caption = f'<figcaption style="max-width:{SHOWN}px">{text}</figcaption>'
            figures += (
                f'<figure style="display:inline-block;margin:4px"><img src="{source}" alt="{text}">{caption}</figure>'
            )
        return f"{figures}<p>seed {html.escape(str(self.settings.get('seed')))}</p>"


def check_output_type(output_type: str) -> None:
    """ValueError for an unknown `OutputType`."""
    if output_type not in get_args(OutputType):
        raise ValueError(f"output_type must be one of {', '.join(get_args(OutputType))}, got {output_type!r}")


def in_form(images: Float[Tensor, "b 3 h w"], output_type: str) -> Any:
    """Images in [-1, 1] as an `OutputType` says; ValueError: a number is not finite."""
    if output_type == "pil":
        return to_images(images)
    unit = (images.float().clamp(-1, 1) + 1) / 2
    return unit if output_type == "pt" else unit.permute(0, 2, 3, 1).cpu().numpy()
