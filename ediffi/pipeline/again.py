"""An image once more: what it was made with, read back from the settings and inputs in its file."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region
from ediffi.hub.manifest import check_sampling
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.result import Images
from ediffi.pipeline.stage import Sampling
from ediffi.pipeline.style import Style, Switch


@dataclass(frozen=True)
class Repetition:
    """The call that makes an image once more: alone, or with all images of its batch.

    Alone, it is the same image but for rounding: sums are ordered by the size of a batch. With its batch, on the same
    device and version, it is the same bits.

    Args:
        settings: of the image, as `Images.settings` has them, with its "index" in the batch.
        inputs: images and tensors by their hash, see `ediffi.pipeline.inputs.found`.
        alone: whether the other images of its batch are left out.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    alone: bool = True

    def __call__(self, cascade: Cascade) -> Images:
        """Sample it; of a batch, it is image `index`. ValueError: the settings are broken, lack an input, or are of
        another model."""
        self._check_model(cascade)
        try:
            stages = self._stages(cascade)
            options, prompt = self.options(), self.prompt
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"the settings of the image are broken: {error!r}") from None
        if prompt is None:
            raise ValueError("the image was made from embeddings, without a prompt, and its file does not hold those")
        if not all(isinstance(text, str) for text in (prompt if isinstance(prompt, list) else [prompt])):
            raise ValueError("the settings of the image are broken: prompt must be a text, or texts")
        return Cascade(cascade.name, cascade.encoders, stages, cascade.source).generate(prompt, options)

    @property
    def index(self) -> int:
        """Of the image in its batch."""
        return int(self.settings.get("index", 0))

    @property
    def batch(self) -> int:
        """How many images were made at once."""
        prompt = self.settings["prompt"]
        return self._each_prompt * (len(prompt) if isinstance(prompt, list) else 1)

    @property
    def prompt(self) -> Any:
        """Of the image, or those of its batch; None if only embeddings were known."""
        return self._of_prompt("prompt")

    def options(self) -> SamplingOptions:
        """The options of the call, apart from what its stages have as plain settings."""
        seed, first = self.settings["seed"], int(self.settings.get("first_index", 0))
        stages = list(self.settings["stages"].values())
        schedules = [stage["guidance_scale"] for stage in stages]
        grids = [stage.get("sigmas") for stage in stages]
        if self.alone:
            first += 0 if isinstance(seed, list) else self.index
            seed = seed[self.index] if isinstance(seed, list) else seed
        return SamplingOptions(
            negative_prompt=self._of_prompt("negative_prompt"),
            num_images_per_prompt=1 if self.alone else self._each_prompt,
            seed=seed,
            first_index=first,
            guidance_scale=schedules if any(isinstance(one, list) for one in schedules) else None,
            sigmas=grids if any(grids) else None,
            style=self._made("style", lambda it: Style(self._input(it["image"], "style image"), it["scale"])),
            paint=self._paint(),
            switch=self._made("switch", lambda it: Switch(it["prompt"], it["at"])),
            edit=self._made("edit", self._edit),
            low_res=self._made("low_res", lambda it: self._input(it, "image that is enlarged")),
            first_stage=self.settings.get("first_stage"),
            noise=self._noise(),
        )

    def _check_model(self, cascade: Cascade) -> None:
        known, here = self.settings.get("model_sha256"), cascade.identity.get("model_sha256")
        if known is not None and here is not None and known != here:
            hashes = f"of the sha256 {str(known)[:12]}..., and this one is {cascade.name!r}, {here[:12]}..."
            raise ValueError(f"the image was made by another model: {self.settings.get('model')!r}, {hashes}")
        if known is None and self.settings.get("model") != cascade.name:
            raise ValueError(f"the image was made by the model {self.settings.get('model')!r}, not {cascade.name!r}")

    def _stages(self, cascade: Cascade) -> list[Any]:
        """The stages with the settings that the image was made with."""
        settings: Mapping[str, Any] = self.settings["stages"]
        names = [stage.name for stage in cascade.stages]
        if list(settings) != names[: len(settings)]:
            made, there = ", ".join(settings), ", ".join(names)
            raise ValueError(f"the image was made by the stages {made}, and {cascade.name!r} has {there}")
        return [
            dataclasses.replace(stage, sampling=sampling_of(settings[stage.name]))
            for stage in cascade.stages[: len(settings)]
        ]

    @property
    def _each_prompt(self) -> int:
        return int(self.settings.get("num_images_per_prompt", 1))

    def _of_prompt(self, name: str) -> Any:
        """The value of an option that may have one for each prompt."""
        value = self.settings.get(name)
        return value[self.index // self._each_prompt] if self.alone and isinstance(value, list) else value

    def _made(self, name: str, make: Any) -> Any:
        value = self._of_prompt(name)
        if isinstance(value, list):
            return [None if one is None else make(one) for one in value]
        return None if value is None else make(value)

    def _paint(self) -> Any:
        layouts = self.settings.get("paint") or []
        if any(isinstance(one, list) for one in layouts):
            return (
                self._layout(layouts[self.index // self._each_prompt])
                if self.alone
                else list(map(self._layout, layouts))
            )
        return self._layout(layouts)

    def _layout(self, entries: Sequence[Mapping[str, Any]]) -> list[Region]:
        masks = [self._input(entry["mask"], "layout") for entry in entries]
        return [
            Region(one["phrase"], mask, one["weight"], one["occurrence"])
            for one, mask in zip(entries, masks, strict=True)
        ]

    def _edit(self, entry: Mapping[str, Any]) -> Edit:
        mask = None if entry["mask"] is None else self._input(entry["mask"], "mask")
        return Edit(self._input(entry["image"], "image that was changed"), entry["strength"], mask)

    def _noise(self) -> dict[str, Any] | None:
        noise = self.settings.get("noise") or {}
        whole = {name: self._input(entry, "noise").reshape(entry["size"]) for name, entry in noise.items()}
        return {name: value[self.index :][:1] if self.alone else value for name, value in whole.items()} or None

    def _input(self, entry: Mapping[str, Any], what: str) -> Any:
        if entry["sha256"] not in self.inputs:
            raise ValueError(f"the file does not hold the {what} that the image was made with, only its hash")
        return self.inputs[entry["sha256"]]


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """The settings of a stage, as `Images.settings` has them; ValueError: they are broken, or of a sampler without a
    name."""
    fields = {field.name for field in dataclasses.fields(Sampling)}
    plain = {name: value for name, value in settings.items() if name in fields}
    if isinstance(plain["guidance_scale"], list):  # a schedule, which the options have
        plain["guidance_scale"] = 1.0
    if str(plain["sampler"]).startswith("<"):
        raise ValueError(f"the image was made by a sampler without a name, {plain['sampler']}")
    interval = plain.get("guidance_interval")
    plain["guidance_interval"] = list(interval) if isinstance(interval, tuple) else interval
    check_sampling(plain, "the settings of the image")
    if plain["guidance_interval"] is not None:
        plain["guidance_interval"] = tuple(plain["guidance_interval"])
    return Sampling(**plain)
