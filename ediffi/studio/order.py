"""What a visitor orders: the fields of the page, checked before anybody waits, and kept in the picture."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ediffi.diffusion.paint import Region, places
from ediffi.io.images import open_image
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import Style
from ediffi.pipeline.prompt import parse
from ediffi.pipeline.stage import Sampling
from ediffi.registry import samplers
from ediffi.registry.samplers.presets import PRESETS
from ediffi.studio.canvas import Layout
from ediffi.studio.shelf import Shelf

OUTSIDE = ("paint", "style", "switch", "edit", "low_res")
"""What settings know only by its hash, or what the page has no field for."""
MAX_IMAGES = 4
MAX_STEPS = 500
MAX_SEED = 2**32 - 1
PAINT_WEIGHT = 1.0
"""`paint_weight` that the page opens with, if the model has none of its own."""


@dataclass(frozen=True)
class Order:
    """Pictures to paint.

    Args:
        prompt: what they should show.
        negative_prompt: what they should not; empty for the null condition.
        seed: picture k is a function of (seed, k).
        num_images: how many.
        num_inference_steps: of each stage.
        guidance_scale: of the base stage.
        paint_weight: of the base stage; has no effect without a layout.
        sampler: a sampler or preset; empty for the model's own.
        style: a name on the shelf's list of style pictures; empty for none.
        style_scale: how much of it.
        layout: phrases and where they belong.
    """

    prompt: str
    negative_prompt: str = ""
    seed: int = 0
    num_images: int = 1
    num_inference_steps: tuple[int, ...] = ()
    guidance_scale: float = 1.0
    paint_weight: float = PAINT_WEIGHT
    sampler: str = ""
    style: str = ""
    style_scale: float = 1.0
    layout: Layout = field(default_factory=Layout)

    @classmethod
    def usual(cls, cascade: Cascade, prompt: str) -> "Order":
        """The model's own settings."""
        plan = cascade.plan()
        return cls(
            prompt,
            num_inference_steps=tuple(sampling.num_inference_steps for sampling in plan),
            guidance_scale=float(plan[0].guidance_scale),
            paint_weight=float(plan[0].paint_weight) or PAINT_WEIGHT,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Order":
        """The order that `to_json` described, or that the page sends.

        Raises:
            ValueError: a field is missing or no number, or out of what the page allows.
        """
        return cls(
            prompt=str(content.get("prompt") or "").strip(),
            negative_prompt=str(content.get("negative_prompt") or "").strip(),
            seed=_whole(content, "seed", 0, MAX_SEED),
            num_images=_whole(content, "num_images", 1, MAX_IMAGES),
            num_inference_steps=tuple(
                _whole({f"num_inference_steps of stage {k}": steps}, f"num_inference_steps of stage {k}", 1, MAX_STEPS)
                for k, steps in enumerate(content["num_inference_steps"], start=1)
            ),
            guidance_scale=_number(content, "guidance_scale"),
            paint_weight=_number(content, "paint_weight"),
            sampler=str(content.get("sampler") or ""),
            style=str(content.get("style") or ""),
            style_scale=_number(content, "style_scale"),
            layout=Layout.from_value(content.get("layout")),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        steps = list(self.num_inference_steps)
        return {**fields, "num_inference_steps": steps, "layout": self.layout.value()}

    def check(self, cascade: Cascade) -> None:
        """Refuse before anything is sampled what could not be.

        Raises:
            ValueError: a prompt is empty or too long, a phrase not in it, a setting out of range.
        """
        text = parse(self.prompt).text
        for brush in self.layout.brushes:
            places(text, Region(brush.phrase, torch.ones(1, 1), brush.weight, brush.occurrence))
        if self.negative_prompt:
            parse(self.negative_prompt)
        if self.layout.regions and not self.paint_weight:
            raise ValueError("the layout has no effect, since the paint weight is 0; give one above 0, or clear it")
        self.plan(cascade)

    def plan(self, cascade: Cascade) -> list[Sampling]:
        """How each stage will be sampled."""
        return cascade.plan(
            list(self.num_inference_steps) or None,
            self.guidance_scale,
            self.sampler or None,
            paint_weight=self.paint_weight,
        )

    def options(self, shelf: Shelf) -> dict[str, Any]:
        """The arguments of `Cascade.__call__`.

        Raises:
            FileNotFoundError: the style picture is gone.
            ValueError: it is no picture, or the layout is broken.
        """
        style = Style(open_image(shelf.style(self.style), exif=True), self.style_scale) if self.style else None
        return {
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt or None,
            "num_images_per_prompt": self.num_images,
            "seed": self.seed,
            "num_inference_steps": list(self.num_inference_steps) or None,
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler or None,
            "paint": self.layout.regions,
            "paint_weight": self.paint_weight,
            "style": style,
        }


def order_of(settings: Mapping[str, Any], cascade: Cascade) -> Order:
    """The order behind a picture: as it was kept, or what its settings say, if another command made the picture.

    Raises:
        ValueError: the settings are not of a picture.
    """
    if "order" in settings:
        return Order.from_json(settings["order"])
    usual = Order.usual(cascade, "").to_json()
    plan = list(settings.get("stages", {}).values())
    told = {name: settings[name] for name in ("prompt", "negative_prompt", "seed") if name in settings}
    if len(plan) == len(cascade.stages):
        told["num_inference_steps"] = [stage["num_inference_steps"] for stage in plan]
        told["guidance_scale"] = plan[0]["guidance_scale"]
    return Order.from_json({**usual, **told})


def lost(settings: Mapping[str, Any]) -> list[str]:
    """What a picture of another command was made with that it does not hold itself, so that it cannot be done again."""
    return [] if "order" in settings else [name for name in OUTSIDE if name in settings]


def sampler_names() -> list[str]:
    """Samplers and presets."""
    return [*samplers.names(), *PRESETS]


def _whole(content: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = content.get(name)
    if not isinstance(value, int | float) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {_told(value)}")
    return int(value)


def _number(content: Mapping[str, Any], name: str) -> float:
    value = content.get(name)
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number from 0, got {_told(value)}")
    return float(value)


def _told(value: Any) -> str:
    return "nothing" if value is None else repr(value)
