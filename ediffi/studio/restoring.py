"""The request of an image: as the page stored it, or from what another command stored in the file."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ediffi.diffusion.layout import Region
from ediffi.io import png
from ediffi.pipeline import inputs as call_inputs
from ediffi.pipeline.again import Repetition, sampling_of
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.registry.samplers.presets import PRESETS
from ediffi.studio.canvas import CanvasLayout, mask_url
from ediffi.studio.gallery import Gallery
from ediffi.studio.opening import losses
from ediffi.studio.request import KEY, MAX_IMAGES, GenerationRequest

INPUTS = {
    "paint": "the layout",
    "style": "the style image",
    "edit": "the image that was changed",
    "low_res": "the image that was enlarged",
    "noise": "the noise it started from",
    "switch": "the second prompt",
}
"""What an image of another command was made from, by its name in the settings, in the user's words."""
NO_FIELD = ("noise", "switch")
"""Those that the page has no field for."""


@dataclass(frozen=True)
class Restored:
    """A request, and what of the image it lacks: without it, another image would be made."""

    request: GenerationRequest
    missing: tuple[str, ...] = ()
    notices: tuple[str, ...] = field(default=())


def restored(settings: Mapping[str, Any], cascade: Cascade, gallery: Gallery, file: Path | None = None) -> Restored:
    """The request of an image with these settings; with its `file`, what it was made from goes to the gallery.

    Raises what reading settings raises that are not as we write them, see `views.ODD`.
    """
    if KEY in settings:
        return _of_page(GenerationRequest.from_json(settings[KEY]), cascade, gallery)
    known = {} if file is None else call_inputs.found(_of_commands(png.inputs_of(file)))
    lost = {name for name in NO_FIELD if name in settings}
    for name in (name for name in INPUTS if name in settings):
        hashes = set(_hashes(settings[name]))
        if not hashes or hashes - known.keys():
            lost.add(name)
    kept = {"seed": 0, "stages": {}, **{name: value for name, value in settings.items() if name not in lost}}
    whole = (
        isinstance(kept["prompt"], str)
        and isinstance(kept["seed"], int)
        and int(kept.get("num_images_per_prompt", 1)) <= MAX_IMAGES
    )
    once = Repetition(kept, known, alone=not whole)
    options, stages = once.options(), {name: sampling_of(stage) for name, stage in kept["stages"].items()}
    content: dict[str, Any] = {
        **GenerationRequest.default(cascade, once.prompt or "").to_json(),
        "negative_prompt": options.negative_prompt,
        "seed": options.seed,
        "first_index": options.first_index,
        "num_images": options.num_images_per_prompt,
        **_of_stages(stages, cascade),
    }
    content |= _of_inputs(options, gallery)
    request = GenerationRequest.from_json(content)
    missing = [INPUTS[name] for name in INPUTS if name in lost] + _other_settings(options, stages, request, cascade)
    return Restored(request, tuple(missing), tuple(losses(_regions(options))))


def _of_page(request: GenerationRequest, cascade: Cascade, gallery: Gallery) -> Restored:
    """A request of the page, without what this gallery or this model does not have."""
    words = {"style": "the style image", "source": "the image it was made from"}
    gone = [name for name, path in request.inputs.items() if not (gallery.folder / path).is_file()]
    missing, absent = [words[name] for name in gone], dict.fromkeys(gone, "")
    if request.first_stage not in ("", *(stage.name for stage in cascade.stages[1:])):
        missing.append(f"the first stage {request.first_stage!r}")
        absent["first_stage"] = ""
    return Restored(dataclasses.replace(request, **absent), tuple(missing))  # type: ignore[arg-type]


def _of_commands(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.startswith(f"{call_inputs.FOLDER}/")}


def _of_inputs(options: SamplingOptions, gallery: Gallery) -> dict[str, Any]:
    """The fields of images, masks and regions, which the gallery gets."""
    content: dict[str, Any] = {}
    style, edit, low_res = (_first(getattr(options, name)) for name in ("style", "edit", "low_res"))
    if style is not None:
        content |= {"style": gallery.add_style(style.image), "style_scale": style.scale}
    if regions := _regions(options):
        content["layout"] = CanvasLayout.of_regions(regions).to_json()
    if edit is not None:
        content |= {"task": "edit", "source": gallery.add_source(edit.image), "strength": edit.strength}
        content["mask"] = "" if edit.mask is None else mask_url(edit.mask)
    if low_res is not None:
        content |= {"task": "upscale", "source": gallery.add_source(low_res), "first_stage": options.first_stage}
    return content


def _of_stages(stages: Mapping[str, Any], cascade: Cascade) -> dict[str, Any]:
    """The fields of the sampling of the stages that ran."""
    own = cascade.plan()
    steps = [stages.get(stage.name, plan).num_inference_steps for stage, plan in zip(cascade.stages, own, strict=True)]
    content: dict[str, Any] = {"num_inference_steps": steps, "sampler": _sampler(stages, cascade)}
    if base := stages.get(cascade.stages[0].name):
        content["guidance_scale"] = base.guidance_scale
        content |= {"paint_weight": base.paint_weight} if base.paint_weight else {}
    return content


def _sampler(stages: Mapping[str, Any], cascade: Cascade) -> str:
    """The entry of the page's list that gives the stages' samplers; empty for the model's own, and for a mixture."""
    names = dict.fromkeys(sampling.sampler for sampling in stages.values())
    for name in ("", *names, *PRESETS):
        plan = cascade.plan(SamplingOptions(sampler=name or None))
        by_name = {stage.name: sampling for stage, sampling in zip(cascade.stages, plan, strict=True)}
        if all(_method(by_name.get(stage)) == _method(sampling) for stage, sampling in stages.items()):
            return name
    return ""


def _method(sampling: Any) -> Any:
    return sampling and (sampling.sampler, dict(sampling.arguments), sampling.rho, sampling.grid)


def _other_settings(
    options: SamplingOptions, stages: Mapping[str, Any], request: GenerationRequest, cascade: Cascade
) -> list[str]:
    """The settings of stages that the page has no field for."""
    plan = {s.name: p for s, p in zip(cascade.stages, cascade.plan(request.options()), strict=True)}
    found = [f"{name} of all stages" for name in ("sigmas",) if getattr(options, name) is not None]
    found += ["the guidance schedule"] if options.guidance_scale is not None else []
    for stage, sampling in stages.items():
        here = plan.get(stage)
        if here is None:
            found.append(f"the settings of the stage {stage!r}")
            continue
        names = [one.name for one in dataclasses.fields(sampling) if one.name != "paint_weight" or request.regions]
        found += [f"{name} of {stage}" for name in names if getattr(sampling, name) != getattr(here, name)]
    return found


def _hashes(value: Any) -> Iterator[str]:
    """The hashes of images and masks in the settings of an input."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from [str(one)] if name == "sha256" else _hashes(one)
    elif isinstance(value, list):
        for one in value:
            yield from _hashes(one)


def _regions(options: SamplingOptions) -> list[Region]:
    """The layout, in a list of its own too, as for each prompt."""
    return [one for layout in options.paint for one in ([layout] if isinstance(layout, Region) else layout)]


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value
