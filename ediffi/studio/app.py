"""The page as Gradio components, and the events that connect them to the model."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ediffi.pipeline.options import SamplingOptions
from ediffi.registry import samplers
from ediffi.registry.samplers.presets import PRESETS
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import PALETTE, PHRASES, assets
from ediffi.studio.page import MODEL_SAMPLER, Form, Page, upload_style
from ediffi.studio.progress import JobProgress
from ediffi.studio.request import GenerationRequest
from ediffi.studio.views import image_panel

PROMPTS = {"toybox": "a large red circle and a small blue square on a pink background"}
"""First prompt of the page, by model."""
TOGGLE_DARK = """
const dark = () => document.body.classList.contains("dark");
const stored = localStorage.getItem("ediffi-studio");
if (stored) document.body.classList.toggle("dark", stored === "dark");
element.querySelector("button").addEventListener("click", () => {
  document.body.classList.toggle("dark");
  localStorage.setItem("ediffi-studio", dark() ? "dark" : "light");
});
"""
CHOOSE_IMAGE = """element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-name]");
  if (card) trigger("choose", { name: card.dataset.name });
});"""
RESTORE_SETTINGS = """element.addEventListener("click", (event) => {
  if (event.target.closest("[data-action=restore]")) trigger("restore");
});"""
STYLE_THUMB = (
    '<div class="thumb ${value.name ? `full` : ``}">${value.name ? `<img src="${value.url}" alt="style image">'
    '<button type="button" title="remove">×</button>` : ``}</div>'
)
REMOVE_STYLE = (
    'element.addEventListener("click", (event) => { if (event.target.closest("button")) props.value = {}; });'
)
RANDOM_SEED = "() => Math.floor(Math.random() * 4294967296)"
SET_PROMPT = "(prompt, value) => ({ ...(value || {}), prompt })"
"""Copies the prompt into the value of the canvas."""
EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of all events: the page shows progress itself, and is no API."""


def build(backend: Backend) -> Any:
    """The page, as `gradio.Blocks`."""
    import gradio as gr

    request = GenerationRequest.default(backend.cascade, PROMPTS.get(backend.cascade.name, ""))
    with gr.Blocks(title="ediffi studio", fill_width=True, analytics_enabled=False) as blocks:
        with gr.Column(elem_id="page"):
            _html(_header(backend), js_on_load=TOGGLE_DARK, elem_id="header")
            with gr.Row(elem_id="workspace"):
                with gr.Column(elem_id="form"):
                    fields, generate, stop = _prompts(request)
                    sampling_fields, steps = _sampling(backend, request)
                    fields |= sampling_fields | _style(backend, request)
                with gr.Column(elem_id="results"):
                    canvas, shown = _results(backend, request)
        _connect(blocks, Page(backend, Form(fields, steps, canvas), generate, stop, **shown))
    blocks.queue(default_concurrency_limit=None, max_size=64, api_open=False)
    return blocks


def _html(value: Any = "", **options: Any) -> Any:
    import gradio as gr

    return gr.HTML(value, apply_default_css=False, **options)


def _slider(label: str, value: float, maximum: float) -> Any:
    import gradio as gr

    return gr.Slider(0.0, max(maximum, value), value=value, step=0.1, label=label, min_width=100, buttons=[])


def _header(backend: Backend) -> str:
    sizes = " → ".join(f"{stage.resolution}²" for stage in backend.cascade.stages)
    model = html.escape(f"{backend.cascade.name}, {sizes}, on {backend.cascade.device}")
    mark = "".join(f'<i style="background:{colour}"></i>' for colour in PALETTE[:3])
    return (
        f'<div class="head"><span class="mark">{mark}</span><b>ediffi studio</b><span class="model">{model}</span>'
        '<span class="gap"></span><button type="button" title="light or dark">Light / dark</button></div>'
    )


def _prompts(request: GenerationRequest) -> tuple[dict[str, Any], Any, Any]:
    import gradio as gr

    options: dict[str, Any] = {"lines": 3, "max_lines": 6, "placeholder": "a red circle"}
    prompt = gr.Textbox(request.prompt, label="Prompt", elem_id="prompt", **options)
    _html(PHRASES, elem_id="phrases")
    placeholder = "what it should not show"
    negative_prompt = gr.Textbox(label="Negative prompt", placeholder=placeholder, elem_id="negative")
    with gr.Row(elem_id="buttons"):
        generate = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120, scale=3)
        stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=60, scale=1)
    return {"prompt": prompt, "negative_prompt": negative_prompt}, generate, stop


def _sampling(backend: Backend, request: GenerationRequest) -> tuple[dict[str, Any], tuple[Any, ...]]:
    import gradio as gr

    def default_steps(sampler: str) -> list[int]:
        options = SamplingOptions(sampler=None if sampler == MODEL_SAMPLER else sampler)
        return [sampling.num_inference_steps for sampling in backend.cascade.plan(options)]

    with gr.Row(elem_id="seed"):
        seed = gr.Number(request.seed, label="Seed", precision=0, min_width=60)
        dice = gr.Button("New", size="sm", min_width=40, elem_id="dice")
        num_images = gr.Number(1, label="Images", precision=0, min_width=40)
    with gr.Row():
        guidance_scale = _slider("Guidance", request.guidance_scale, 10.0)
        paint_weight = _slider("Paint weight", request.paint_weight, 10.0)
    with gr.Row(elem_id="steps"):
        steps = tuple(
            gr.Number(count, label=f"{stage.name} steps", precision=0, min_width=40)
            for stage, count in zip(backend.cascade.stages, request.num_inference_steps, strict=True)
        )
    names = [MODEL_SAMPLER, *samplers.names(), *PRESETS]
    sampler = gr.Dropdown(names, value=MODEL_SAMPLER, label="Sampler", elem_id="sampler")
    dice.click(None, None, seed, js=RANDOM_SEED, **EVENT)
    sampler.input(default_steps, sampler, list(steps), **EVENT)
    fields = {"seed": seed, "num_images": num_images, "guidance_scale": guidance_scale, "paint_weight": paint_weight}
    return {**fields, "sampler": sampler}, steps


def _style(backend: Backend, request: GenerationRequest) -> dict[str, Any]:
    import gradio as gr

    def store(path: str) -> dict[str, str]:
        try:
            return upload_style(backend.gallery, path)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from None
        finally:
            Path(path).unlink(missing_ok=True)  # Gradio keeps uploads for ever

    with gr.Row(elem_id="style"):
        style = _html({}, html_template=STYLE_THUMB, js_on_load=REMOVE_STYLE, min_width=56)
        with gr.Column(min_width=60):
            options: dict[str, Any] = {"size": "sm", "interactive": bool(backend.cascade.image_encoders)}
            upload = gr.UploadButton("Style image …", file_types=["image"], elem_id="upload", **options)
            style_scale = _slider("Style scale", request.style_scale, 3.0)
    upload.upload(store, upload, style, **EVENT)
    return {"style": style, "style_scale": style_scale}


def _results(backend: Backend, request: GenerationRequest) -> tuple[Any, dict[str, Any]]:
    """The canvas, and the components that show images, by their name in `Page`."""
    import gradio as gr

    shown: dict[str, Any] = {}
    with gr.Row(elem_id="images"):
        canvas = _html({"prompt": request.prompt, "brushes": [], "image": ""}, elem_id="canvas", **assets())
        shown["panel"] = _html(image_panel([], ""), elem_id="panel")
    plan = backend.cascade.plan(request.options())
    shown["stages"] = _html(JobProgress(backend.cascade, plan, backend.step_times).stages(), elem_id="stages")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Images"), gr.Row(elem_id="gallery"):
            shown["gallery"] = _html(elem_id="grid", js_on_load=CHOOSE_IMAGE)
            shown["details"] = _html(elem_id="details", js_on_load=RESTORE_SETTINGS)
        with gr.Tab("Attention"), gr.Column(elem_id="attention"):
            options: dict[str, Any] = {"size": "sm", "interactive": False, "elem_id": "show-attention"}
            shown["show_attention"] = gr.Button("Show the attention of this image", **options)
            shown["attention"] = _html(elem_id="maps")
    shown["chosen"] = gr.State("")
    return canvas, shown


def _connect(blocks: Any, page: Page) -> None:
    """The events of more than one part of the page."""
    import gradio as gr

    def run(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from page.run(values, str(request.session_hash))

    def attend(name: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from page.attend(name, str(request.session_hash))

    def stop(request: gr.Request) -> None:
        page.backend.jobs.stop(str(request.session_hash))

    def choose(event: gr.EventData) -> dict[Any, Any]:
        return page.show(str(getattr(event, "name", "")))

    form, prompt, buttons = page.form, page.form.fields["prompt"], [page.generate, page.stop]
    for start in (page.generate.click, prompt.submit):
        start(run, {page.chosen, *form.inputs}, [*page.outputs, *buttons], **EVENT)
    page.show_attention.click(attend, page.chosen, [page.attention, *buttons], **EVENT)
    page.stop.click(stop, **EVENT)
    blocks.unload(stop)
    prompt.change(None, [prompt, form.canvas], form.canvas, js=SET_PROMPT, **EVENT)
    blocks.load(page.show_newest, None, page.outputs, **EVENT)
    page.gallery.choose(choose, None, page.outputs, **EVENT)
    page.details.restore(page.restore, page.chosen, [page.panel, *form.inputs], **EVENT)
