"""The arguments of `Cascade.__call__` as callers have them, made into the values of `SamplingOptions`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region, read_layout
from ediffi.io.image_input import ImageInput, read_image
from ediffi.pipeline.sampling import StopSampling
from ediffi.pipeline.style import Style
from ediffi.registry.types import SamplerState

Generator = torch.Generator | int
"""A torch generator, from which a call draws a seed, or a seed."""
StepEnd = Callable[[Any, int, float, dict[str, Any]], Mapping[str, Any] | None]
"""`callback(cascade, step, sigma, state)`, as in diffusers; see `Cascade.__call__`."""


def seeds(seed: Any, generator: Generator | Sequence[Generator] | None) -> Any:
    """The seed of a call, or one for each image; ValueError if both ways to say it are used."""
    if generator is None:
        return seed
    if seed != 0:
        raise ValueError(f"generator and seed say the same: give one of them, got seed {seed}")
    return list(map(_seed, generator)) if isinstance(generator, list | tuple) else _seed(generator)


def _seed(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    return generator


def styles(style: Any) -> Any:
    """A style, or one for each prompt, of images in any form."""
    if isinstance(style, list | tuple):
        return tuple(map(styles, style))
    return style if style is None or isinstance(style, Style) else Style(style)


def layouts(paint: Any) -> Any:
    """Regions, or a list of them for each prompt, of layouts in files or in Python."""
    if isinstance(paint, list | tuple):
        return tuple(one if isinstance(one, Region) else _layout(one) for one in paint)
    return _layout(paint)


def _layout(paint: Any) -> tuple[Region, ...]:
    if isinstance(paint, str | Path):
        return tuple(read_layout(Path(paint)))
    regions = (paint,) if isinstance(paint, Region) else () if paint is None else paint
    if not isinstance(regions, list | tuple) or not all(isinstance(one, Region) for one in regions):
        forms = (
            'regions, such as Region("red circle", mask), or the path of a layout, or a list of them for each prompt'
        )
        raise ValueError(f"paint must be {forms}; got {type(paint).__name__}")
    return tuple(regions)


def edits(image: Any, mask_image: Any, strength: float | None, edit: Any) -> Any:
    """The edit of `image`, `mask_image` and `strength`, or one for each prompt; or `edit`."""
    if image is None:
        if mask_image is not None or strength is not None:
            raise ValueError("mask_image and strength belong to image, the image to start from")
        return edit
    if edit is not None:
        raise ValueError("image and edit say the same: give one of them")
    share = 0.8 if strength is None else strength
    if not isinstance(image, list | tuple):
        return Edit(image, share, mask_image)
    masks = mask_image if isinstance(mask_image, list | tuple) else [mask_image] * len(image)
    if len(masks) != len(image):
        raise ValueError(f"mask_image has {len(masks)} masks for {len(image)} images; give 1, or one for each")
    return tuple(Edit(one, share, mask) for one, mask in zip(image, masks, strict=True))


def low_resolution(low_res: ImageInput | Sequence[ImageInput] | None) -> Any:
    """Images to super-resolve, in RGB."""
    if low_res is None or isinstance(low_res, Image.Image | np.ndarray | Tensor | str | Path | bytes):
        return None if low_res is None else read_image(low_res, "low_res")
    return tuple(read_image(one, "low_res") for one in low_res)


def plain(values: Any) -> Any:
    """An array or a tensor of numbers as a list; other values as they are."""
    return values.tolist() if isinstance(values, np.ndarray | Tensor) else values


def start_noise(noise: Any, first_stage: str) -> Any:
    """Noise by the name of its stage; a tensor alone is the first stage's."""
    return {first_stage: noise} if isinstance(noise, Tensor) else noise


def step_end(callback: StepEnd, cascade: Any) -> Callable[[str, SamplerState], Tensor | None]:
    """A callback of a caller as the stages call it; ValueError if it returns what it may not."""

    def progress(stage: str, state: SamplerState) -> Tensor | None:
        given = {"stage": stage, "num_steps": state.num_steps, "x": state.x, "denoised": state.denoised}
        returned = callback(cascade, state.step, state.sigma, given)
        if returned is not None and not isinstance(returned, Mapping):
            raise ValueError(f"callback_on_step_end must return a mapping with x or stop, or None; got {returned!r}")
        changed = dict(returned or {})
        if strange := changed.keys() - given.keys() - {"stop"}:
            raise ValueError(f"callback_on_step_end returned {sorted(strange)}; it may return x and stop")
        if changed.get("stop"):
            raise StopSampling(state.denoised)
        x = changed.get("x")
        if x is not None and not (isinstance(x, Tensor) and x.shape == state.x.shape):
            raise ValueError(f"callback_on_step_end must return x as a tensor of shape {list(state.x.shape)}")
        return None if x is state.x else x

    return progress
