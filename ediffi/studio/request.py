"""What the user asks the page for: checked before the job waits, stored in the image, and read back from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from PIL import Image

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region
from ediffi.diffusion.paint import places
from ediffi.io.image_input import read_mask
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.inputs import digest
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.prompt import parse
from ediffi.pipeline.style import Style
from ediffi.studio.canvas import CanvasLayout, drawing, mask_at
from ediffi.studio.gallery import SOURCES, STYLES

KEY = "order"
"""Key of the request in the settings of an image."""
MAX_IMAGES = 4
MAX_STEPS = 500
MAX_SEED = 2**32 - 1
Task = Literal["sample", "edit", "upscale"]
"""What is made, by the name of the command that makes it: a new image, a changed one, or an enlarged one."""
STRENGTH = 0.8
"""Strength of a change, as of `ediffi edit`."""
PAINT_WEIGHT = 1.0
"""Paint weight of the page for models that define none."""


LABELS = {
    "seed": "Seed",
    "num_images": "Images",
    "first_index": "First number",
    "variation": "Variation",
    "variation_of": "of number",
    "guidance_scale": "Guidance",
    "paint_weight": "Paint weight",
    "style_scale": "Style scale",
    "strength": "Strength of the change",
}
"""What the page calls the numbers of a request, in its fields and in messages."""
COUNTED = ("first_index", "variation_of")
"""Numbers that the page counts from 1, and a request from 0."""


@dataclass(frozen=True)
class GenerationRequest:
    """Images to generate."""

    prompt: str
    negative_prompt: str = ""  # empty for the null condition
    seed: int = 0  # image k is a function of (seed, k)
    num_images: int = 1
    first_index: int = 0  # of the first image, from 0
    variation: float = 0.0  # share of new noise in variations of one image, see `varied_noise`; 0 for none
    variation_of: int = 0  # index of that image, from 0
    num_inference_steps: tuple[int, ...] = ()  # of each stage
    guidance_scale: float = 1.0  # of the base stage
    paint_weight: float = PAINT_WEIGHT  # of the base stage
    sampler: str = ""  # a sampler or preset; empty for the model's own
    style: str = ""  # name of a style image in the gallery; empty for none
    style_scale: float = 1.0
    layout: CanvasLayout = field(default_factory=CanvasLayout)
    task: Task = "sample"
    source: str = ""  # name of the image in the gallery's sources that is changed or enlarged; empty for none
    mask: str = ""  # where it is repainted: a PNG data URL, opaque there; empty for everywhere
    strength: float = STRENGTH  # of the change, as in `Edit`
    first_stage: str = ""  # of an enlargement, as in `SamplingOptions`; empty for the one that fits the image

    @classmethod
    def default(cls, cascade: Cascade, prompt: str) -> "GenerationRequest":
        """A request with the model's own settings."""
        plan = cascade.plan()
        return cls(
            prompt,
            num_inference_steps=tuple(sampling.num_inference_steps for sampling in plan),
            guidance_scale=float(plan[0].guidance_scale),
            paint_weight=float(plan[0].paint_weight) or PAINT_WEIGHT,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "GenerationRequest":
        """The request in the output of `to_json` or in the values of the page; ValueError if it is none."""
        try:
            return cls._read(content)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"the request is broken: {error!r}") from None

    @classmethod
    def _read(cls, content: Mapping[str, Any]) -> "GenerationRequest":
        steps = {f"steps of stage {k}": n for k, n in enumerate(content["num_inference_steps"], start=1)}
        return cls(
            prompt=str(content.get("prompt") or "").strip(),
            negative_prompt=str(content.get("negative_prompt") or "").strip(),
            seed=_integer(content, "seed", 0, MAX_SEED),
            num_images=_integer(content, "num_images", 1, MAX_IMAGES),
            first_index=_integer({"first_index": 0, **content}, "first_index", 0, MAX_SEED),
            num_inference_steps=tuple(_integer(steps, name, 1, MAX_STEPS) for name in steps),
            variation=_number({"variation": 0.0, **content}, "variation", 1.0),
            variation_of=_integer({"variation_of": 0, **content}, "variation_of", 0, MAX_SEED),
            guidance_scale=_number(content, "guidance_scale"),
            paint_weight=_number(content, "paint_weight"),
            sampler=str(content.get("sampler") or ""),
            style=str(content.get("style") or ""),
            style_scale=_number(content, "style_scale"),
            layout=CanvasLayout.from_json(content.get("layout")),
            task=_task(content.get("task", "sample")),
            source=str(content.get("source") or ""),
            mask=drawing(content.get("mask"), "the mask"),
            strength=_number({"strength": STRENGTH, **content}, "strength", 1.0),
            first_stage=str(content.get("first_stage") or ""),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "num_inference_steps": list(self.num_inference_steps), "layout": self.layout.to_json()}

    @property
    def inputs(self) -> dict[str, str]:
        """The images that it is made from, by their paths in the gallery: "style" and "source", if it has them."""
        source = self.source if self.task != "sample" else ""
        names = {"style": (STYLES, self.style), "source": (SOURCES, source)}
        return {field: f"{folder}/{name}.png" for field, (folder, name) in names.items() if name}

    def check(self, cascade: Cascade) -> None:
        """ValueError unless the images can be generated; nothing is sampled."""
        text = parse(self.prompt).text
        for brush in self.layout.brushes:
            places(text, Region(brush.phrase, torch.ones(1, 1), brush.weight, brush.occurrence))
        if self.regions and not self.paint_weight:
            raise ValueError("the layout has no effect, since the paint weight is 0; give one above 0, or clear it")
        if self.task != "sample" and not self.source:
            verb = "change" if self.task == "edit" else "enlarge"
            raise ValueError(f"there is no image to {verb}: drop one on the canvas, open one, or choose one below")
        if self.task == "upscale" and len(cascade.stages) == 1:
            raise ValueError(f"{cascade.name!r} has one stage, and enlarging needs a super-resolution stage")
        cascade.plan(self.options())

    @property
    def regions(self) -> list[Region]:
        """The painted regions that the images depend on: enlarging starts after the base stage, which reads them."""
        return [] if self.task == "upscale" else self.layout.regions

    def options(self, style: Style | None = None, source: Image.Image | None = None) -> SamplingOptions:
        """The options of `Cascade.generate`, with the style image and the source that the caller has loaded."""
        edit = low_res = None
        if source is not None and self.task == "edit":
            edit = Edit(source, self.strength, mask_at(self.mask, source.width))
        if source is not None and self.task == "upscale":
            low_res = source
        return SamplingOptions(
            negative_prompt=self.negative_prompt or None,
            num_images_per_prompt=self.num_images,
            seed=self.seed,
            first_index=self.first_index,
            num_inference_steps=self.num_inference_steps or None,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler or None,
            paint_weight=self.paint_weight,
            style=style,
            paint=self.regions,
            edit=edit,
            low_res=low_res,
            first_stage=None if low_res is None else self.first_stage or None,
        )


def layout_inputs(settings: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The masks of an image of the page by their hash, drawn again from its request; none for another image."""
    if KEY not in settings:
        return {}
    request = GenerationRequest.from_json(settings[KEY])
    masks = [region.mask for region in request.regions]
    if request.task == "edit" and (mask := mask_at(request.mask, settings["edit"]["image"]["size"][0])) is not None:
        masks.append(read_mask(mask))
    return {digest(mask): mask for mask in masks}


def _task(value: Any) -> Task:
    if value not in get_args(Task):
        raise ValueError(f"the task must be one of {', '.join(get_args(Task))}, got {value!r}")
    task: Task = value
    return task


def _integer(content: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = content.get(name)
    if not isinstance(value, int | float) or not low <= value <= high or value != int(value):
        first = int(name in COUNTED)
        got = _got(value + first if isinstance(value, int | float) else value)
        raise ValueError(f"{_label(name)} must be a whole number from {low + first} to {high + first}, {got}")
    return int(value)


def _number(content: Mapping[str, Any], name: str, most: float = float("inf")) -> float:
    value = content.get(name)
    if not isinstance(value, int | float) or not 0 <= value <= most or value == float("inf"):
        allowed = "of at least 0" if most == float("inf") else f"from 0 to {most:g}"
        raise ValueError(f"{_label(name)} must be a number {allowed}, {_got(value)}")
    return float(value)


def _label(name: str) -> str:
    return repr(LABELS.get(name, name))


def _got(value: Any) -> str:
    if value is None:
        return "and it is empty"
    return f"got {value:g}" if isinstance(value, float) else f"got {value!r}"
