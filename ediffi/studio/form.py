"""The form of the page: its fields as Gradio components, and the request that their values are."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ediffi.pipeline.options import SamplingOptions
from ediffi.registry import samplers
from ediffi.registry.samplers.presets import PRESETS
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import PHRASES, script
from ediffi.studio.gallery import SOURCES, STYLES, Gallery
from ediffi.studio.request import COUNTED, LABELS, MAX_SEED, GenerationRequest
from ediffi.studio.views import file_url

MODEL_SAMPLER, FITTING_STAGE = "the model's own", "the one that fits the image"
"""The entries of the lists of samplers and stages that stand for no choice."""
STYLE_THUMB = (
    '<div class="thumb ${value.name ? `full` : ``}">${value.name ? `<img src="${value.url}" alt="style image">'
    '<button type="button" title="remove the style image">×</button>` : ``}</div>'
)
RANDOM_SEED = "() => Math.floor(Math.random() * 4294967296)"
HELP = {
    "seed": "Which noise the image starts from: the same seed and settings give the same image.",
    "num_images": "At most 4, numbered from the first number on; each has noise of its own.",
    "first_index": "Number of the first image of this seed: 3 paints image 3 alone.",
    "variation": "Above 0, all images are like one image, with this share of new noise.",
    "variation_of": "Number of the image that is varied.",
    "strength": "Share of the steps that run: 0 keeps the image, 1 keeps nothing of it.",
    "first_stage": "The first stage that runs; it makes the image as small as its input.",
    "guidance_scale": "How closely the image follows the prompt; 1 is off, and too much makes it harsh.",
    "paint_weight": "How strongly the painted regions count; 0 is off.",
    "steps": "Steps of each stage, from noise to image: more are slower and finer.",
    "sampler": "The method that goes from noise to image.",
    "style_scale": "How strongly the image takes the style of the style image.",
}
"""What unusual words mean, shown where Help is on."""
EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of all events: the page shows progress itself, and is no API."""
Updates = dict[Any, Any]
"""New values of components; the other components keep theirs."""


@dataclass(frozen=True)
class Form:
    """The components that a request is read from."""

    fields: Mapping[str, Any]  # by the name of their field in `GenerationRequest`; without those of steps and canvas
    steps: tuple[Any, ...]  # one for each stage
    canvas: Any  # the task, the layout, the source and its mask
    random: Any  # whether each job gets a new seed

    def request(self, values: Mapping[Any, Any]) -> GenerationRequest:
        """The request in the components' values; raises as `GenerationRequest.from_json`."""
        content = {name: values[field] for name, field in self.fields.items()}
        canvas = values[self.canvas] or {}
        return GenerationRequest.from_json(
            {
                **content,
                **{name: _from_zero(content[name]) for name in COUNTED},
                "seed": secrets.randbelow(MAX_SEED + 1) if values[self.random] else content["seed"],
                "sampler": "" if content["sampler"] == MODEL_SAMPLER else content["sampler"],
                "first_stage": "" if content["first_stage"] == FITTING_STAGE else content["first_stage"],
                "style": (content["style"] or {}).get("name"),
                "num_inference_steps": [values[field] for field in self.steps],
                "layout": canvas,
                "task": canvas.get("task", "sample"),
                "source": (canvas.get("source") or {}).get("name"),
                "mask": canvas.get("mask"),
            }
        )

    def values(self, request: GenerationRequest, gallery: Gallery) -> Updates:
        """The components' values for a request."""
        content = request.to_json()
        content |= {name: content[name] + 1 for name in COUNTED}
        content |= {"sampler": request.sampler or MODEL_SAMPLER, "first_stage": request.first_stage or FITTING_STAGE}
        content |= {"style": input_value(gallery, STYLES, request.style)}
        source = input_value(gallery, SOURCES, request.source)
        drawn = {"task": request.task, "source": source, "mask": request.mask}
        return {
            **{field: content[name] for name, field in self.fields.items()},
            **dict(zip(self.steps, request.num_inference_steps, strict=False)),
            self.random: False,
            self.canvas: {"prompt": request.prompt, **content["layout"], **drawn},
        }

    @property
    def inputs(self) -> set[Any]:
        """All components."""
        return {*self.fields.values(), *self.steps, self.canvas, self.random}


def _from_zero(number: Any) -> Any:
    return number - 1 if isinstance(number, int | float) else number


def input_value(gallery: Gallery, folder: str, name: str) -> dict[str, str]:
    """The value of a field for a style or source image of the gallery; empty for no name."""
    return {"name": name, "url": file_url(gallery, f"{folder}/{name}.png")} if name else {}


def upload_style(gallery: Gallery, path: str) -> dict[str, str]:
    """Store an uploaded style image; returns the value of the style field."""
    return input_value(gallery, STYLES, gallery.add_style(Path(path).read_bytes(), Path(path).name))


def html_part(value: Any = "", **options: Any) -> Any:
    """A part of the page in HTML of our own."""
    import gradio as gr

    return gr.HTML(value, apply_default_css=False, **options)


def prompt_fields(backend: Backend, request: GenerationRequest) -> tuple[dict[str, Any], Any, Any]:
    """The fields of the prompts and of what is done to an image, and the buttons that start and stop a job."""
    import gradio as gr

    options: dict[str, Any] = {"lines": 3, "max_lines": 6, "placeholder": "describe the image"}
    prompt = gr.Textbox(request.prompt, label="Prompt", elem_id="prompt", **options)
    html_part(PHRASES, elem_id="phrases")
    placeholder = "what it should not show"
    negative_prompt = gr.Textbox(label="Negative prompt", placeholder=placeholder, elem_id="negative")
    strength = _slider("strength", request.strength, 1.0, step=0.05, elem_id="strength")
    stages = [FITTING_STAGE, *(stage.name for stage in backend.cascade.stages[1:])]
    first_stage = gr.Dropdown(
        stages, value=FITTING_STAGE, label="First stage", elem_id="first-stage", info=HELP["first_stage"]
    )
    with gr.Row(elem_id="buttons"):
        generate = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120, scale=3)
        stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=60, scale=1)
    fields = {"prompt": prompt, "negative_prompt": negative_prompt}
    return {**fields, "strength": strength, "first_stage": first_stage}, generate, stop


def seed_fields(request: GenerationRequest) -> tuple[dict[str, Any], Any]:
    """The fields of the seed and the images by name, and whether each job gets a new seed."""
    import gradio as gr

    with gr.Row(elem_id="seed"):
        seed = _number("seed", request.seed, min_width=60)
        dice = gr.Button("New", size="sm", min_width=40, elem_id="dice")
    random = gr.Checkbox(False, label="A new seed each time", elem_id="random", container=False)
    with gr.Row():
        num_images, first_index = _number("num_images", 1), _number("first_index", 1)
    with gr.Row():
        variation, variation_of = _slider("variation", 0.0, 1.0, step=0.05), _number("variation_of", 1)
    dice.click(None, None, seed, js=RANDOM_SEED, **EVENT)
    varied = {"variation": variation, "variation_of": variation_of}
    return {"seed": seed, "num_images": num_images, "first_index": first_index, **varied}, random


def sampling_fields(backend: Backend, request: GenerationRequest) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The fields of guidance and sampler by name, and those of the steps."""
    import gradio as gr

    def default_steps(sampler: str) -> list[int]:
        options = SamplingOptions(sampler=None if sampler == MODEL_SAMPLER else sampler)
        return [sampling.num_inference_steps for sampling in backend.cascade.plan(options)]

    with gr.Row():
        guidance_scale = _slider("guidance_scale", request.guidance_scale, 10.0)
        paint_weight = _slider("paint_weight", request.paint_weight, 10.0)
    with gr.Row(elem_id="steps"):
        steps = tuple(
            gr.Number(count, label=f"{stage.name} steps", min_width=40)
            for stage, count in zip(backend.cascade.stages, request.num_inference_steps, strict=True)
        )
    html_part(f"<p>{HELP['steps']}</p>", elem_classes="help-text")
    names = [MODEL_SAMPLER, *samplers.names(), *PRESETS]
    sampler = gr.Dropdown(names, value=MODEL_SAMPLER, label="Sampler", elem_id="sampler", info=HELP["sampler"])
    sampler.input(default_steps, sampler, list(steps), **EVENT)
    return {"guidance_scale": guidance_scale, "paint_weight": paint_weight, "sampler": sampler}, steps


def style_fields(backend: Backend, request: GenerationRequest) -> dict[str, Any]:
    """The style image and its scale."""
    import gradio as gr

    def store(path: str) -> dict[str, str]:
        try:
            return upload_style(backend.gallery, path)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            Path(path).unlink(missing_ok=True)  # Gradio keeps uploads for ever

    with gr.Row(elem_id="style"):
        style = html_part({}, html_template=STYLE_THUMB, js_on_load=script("style"), min_width=56)
        with gr.Column(min_width=60):
            takes = bool(backend.cascade.image_encoders)
            options: dict[str, Any] = {"size": "sm", "interactive": takes}
            text = "Style image …" if takes else "This model takes no style image"
            upload = gr.UploadButton(text, file_types=["image"], elem_id="upload", **options)
            style_scale = _slider("style_scale", request.style_scale, 3.0)
    upload.upload(store, upload, style, **EVENT)
    return {"style": style, "style_scale": style_scale}


def _slider(name: str, value: float, maximum: float, step: float = 0.1, **options: Any) -> Any:
    import gradio as gr

    options = {"label": LABELS[name], "info": HELP[name], "min_width": 100, "buttons": [], **options}
    return gr.Slider(0.0, max(maximum, value), value=value, step=step, **options)


def _number(name: str, value: int, min_width: int = 40) -> Any:
    """A field for a whole number. It sends what was typed, since Gradio would round 2.5 to 2 in silence."""
    import gradio as gr

    return gr.Number(value, label=LABELS[name], min_width=min_width, info=HELP[name])
