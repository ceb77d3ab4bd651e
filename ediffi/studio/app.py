"""The page as Gradio components, and the events that connect them to the model."""

import html
import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from ediffi.studio import actions
from ediffi.studio.backend import Backend
from ediffi.studio.canvas import PALETTE, assets, script
from ediffi.studio.form import EVENT, Form, html_part, prompt_fields, sampling_fields, seed_fields, style_fields
from ediffi.studio.grid import draw_grid
from ediffi.studio.opening import MAX_FILE_MB
from ediffi.studio.page import Page
from ediffi.studio.progress import JobProgress
from ediffi.studio.request import GenerationRequest
from ediffi.studio.views import image_actions, image_panel

PROMPTS = {"toybox": "a large red circle and a small blue square on a pink background"}
"""First prompt of the page, by model."""
STOPPED = (
    '<div class="stopped" role="alert" hidden>The studio was stopped. Start it again with <code>ediffi studio</code>; '
    "what is on this page is kept.</div>"
)
SET_PROMPT = "(prompt, value) => ({ ...(value || {}), prompt })"
"""Copies the prompt into the value of the canvas."""


def build(backend: Backend) -> Any:
    """The page, as `gradio.Blocks`."""
    import gradio as gr

    request = GenerationRequest.default(backend.cascade, PROMPTS.get(backend.cascade.name, ""))
    with gr.Blocks(title="ediffi studio", fill_width=True, analytics_enabled=False) as blocks:
        with gr.Column(elem_id="page"):
            html_part(_header(backend), js_on_load=script("header"), elem_id="header")
            with gr.Row(elem_id="workspace"):
                with gr.Column(elem_id="words", elem_classes="form-part"):
                    fields, generate, stop = prompt_fields(backend, request)
                with gr.Column(elem_id="settings", elem_classes="form-part"):
                    seeds, random = seed_fields(request)
                    sampling, steps = sampling_fields(backend, request)
                    fields |= seeds | sampling | style_fields(backend, request)
                with gr.Column(elem_id="results"):
                    canvas, tools, shown = _results(backend, request)
            html_part('<div class="drop">Drop to open</div>', js_on_load=script("open"), most=MAX_FILE_MB)
            html_part(STOPPED, js_on_load=script("alive"))
        page = Page(backend, Form(fields, steps, canvas, random), generate, stop, **shown)
        _connect(blocks, page, tools)
        _connect_actions(page, tools)
        _keep_draft(blocks, page.form, backend.cascade.name)
    blocks.queue(default_concurrency_limit=None, max_size=64, api_open=False)
    return blocks


def _header(backend: Backend) -> str:
    sizes = " → ".join(f"{stage.resolution}²" for stage in backend.cascade.stages)
    model = html.escape(f"{backend.cascade.name}, {sizes}, on {backend.cascade.device}")
    mark = "".join(f'<i style="background:{colour}"></i>' for colour in PALETTE[:3])
    return (
        f'<div class="head"><span class="mark">{mark}</span><h1>ediffi studio</h1><span class="model">{model}</span>'
        '<span class="gap"></span><button type="button" data-toggle="help" aria-pressed="false">Help</button>'
        '<button type="button" data-toggle="dark">Light / dark</button></div>'
    )


def _results(backend: Backend, request: GenerationRequest) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The canvas, the buttons of files and grid, and the components that show images by their names in `Page`."""
    import gradio as gr

    shown: dict[str, Any] = {}
    files: dict[str, Any] = {}
    with gr.Row(elem_id="images"):
        with gr.Column(elem_id="drawing"):
            value = {"prompt": request.prompt, "task": "sample", "brushes": [], "image": "", "source": {}, "mask": ""}
            canvas = html_part(value, elem_id="canvas", **assets())
            with gr.Row(elem_id="files"):
                options: dict[str, Any] = {"size": "sm", "file_count": "multiple", "elem_id": "open"}
                files["open"] = gr.UploadButton("Open image or layout …", file_types=["image", ".json"], **options)
                files["save_layout"] = gr.Button("Save layout", size="sm", elem_id="save-layout")
                files["open_mask"] = gr.UploadButton(
                    "Open mask …", file_types=["image"], size="sm", elem_id="open-mask"
                )
                files["save_mask"] = gr.Button("Save mask", size="sm", elem_id="save-mask")
            shown["saved"] = html_part({}, html_template="", js_on_load=script("save"))
        with gr.Column(elem_id="picture"):
            shown["panel"] = html_part(image_panel([], ""), js_on_load=script("compare"), elem_id="panel")
            shown["actions"] = html_part(
                image_actions(backend.gallery, None), js_on_load=script("actions"), elem_id="actions"
            )
    plan = backend.cascade.plan(request.options())
    shown["stages"] = html_part(JobProgress(backend.cascade, plan, backend.step_times).stages(), elem_id="stages")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Images"), gr.Row(elem_id="gallery"):
            shown["gallery"] = html_part(elem_id="grid", js_on_load=script("gallery"))
            shown["details"] = html_part(elem_id="details")
        with gr.Tab("Grid"), gr.Column(elem_id="grid-tab"):
            axes = _axes(request)
            shown["sheet"] = html_part(elem_id="sheet", js_on_load=script("gallery"))
        with gr.Tab("Attention"), gr.Column(elem_id="attention"):
            options = {"size": "sm", "interactive": False, "elem_id": "show-attention"}
            shown["show_attention"] = gr.Button("Show the attention of this image", **options)
            shown["attention"] = html_part(elem_id="maps")
    shown |= {"chosen": gr.State(""), "pinned": gr.State("")}
    return canvas, {**files, **axes}, shown


def _axes(request: GenerationRequest) -> dict[str, Any]:
    """The fields of the grid, by name."""
    import gradio as gr

    with gr.Row(elem_id="axes"):
        scale, weight = request.guidance_scale, request.paint_weight
        guidance = gr.Textbox(f"1, {scale:g}, {2 * scale:g}", label="Guidance, across", min_width=120)
        paint = gr.Textbox(f"{weight:g}", label="Paint weight, down", min_width=120)
        draw = gr.Button("Make the grid", size="sm", elem_id="draw-grid", min_width=100)
    return {"guidance": guidance, "paint": paint, "draw": draw}


def _connect(blocks: Any, page: Page, tools: Mapping[str, Any]) -> None:
    """The events that make and show images."""
    import gradio as gr

    def run(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from page.run(values, str(request.session_hash))

    def attend(name: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from page.attend(name, str(request.session_hash))

    def stop(request: gr.Request) -> None:
        page.backend.jobs.stop(str(request.session_hash))

    def choose(pinned: str, event: gr.EventData) -> dict[Any, Any]:
        return actions.choose(page, str(getattr(event, "name", "")), pinned)

    def grid(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from draw_grid(page, values, values[tools["guidance"]], values[tools["paint"]], str(request.session_hash))

    form, prompt, buttons = page.form, page.form.fields["prompt"], [page.generate, page.stop]
    everything = [*page.outputs, *form.inputs]
    varied = page.actions.vary(partial(actions.vary, page), page.chosen, everything, **EVENT)
    for start in (page.generate.click, prompt.submit, varied.then):
        start(run, {page.chosen, *form.inputs}, [*page.outputs, *buttons, form.fields["seed"]], **EVENT)
    inputs = {page.chosen, *form.inputs, tools["guidance"], tools["paint"]}
    tools["draw"].click(grid, inputs, [page.sheet, page.stages, page.gallery, *buttons], **EVENT)
    page.show_attention.click(attend, page.chosen, [page.attention, *buttons], **EVENT)
    page.stop.click(stop, **EVENT)
    blocks.unload(stop)
    prompt.change(None, [prompt, form.canvas], form.canvas, js=SET_PROMPT, **EVENT)
    blocks.load(page.show_newest, None, page.outputs, **EVENT)
    for images in (page.gallery, page.sheet):
        images.choose(choose, page.pinned, [*page.outputs, page.pinned], **EVENT)


def _keep_draft(blocks: Any, form: Form, model: str) -> None:
    """The form and the canvas survive a reload of their tab."""
    import gradio as gr

    fields = [*form.fields.values(), *form.steps, form.random]
    shown = [field for field in fields if not isinstance(field, gr.HTML)]  # the style has its own script
    key = json.dumps(f"ediffi-form-{model}")
    store = f"(...values) => {{ sessionStorage.setItem({key}, JSON.stringify(values)); return []; }}"
    kept = [form.canvas, form.fields["style"], *shown]
    blocks.load(None, kept, kept, js=script("draft").replace("KEY", key), **EVENT)
    gr.on([field.change for field in shown], None, shown, None, js=store, **EVENT)


def _connect_actions(page: Page, files: Mapping[str, Any]) -> None:
    """The events of the buttons of an image, and of files that are opened."""
    form, canvas = page.form, page.form.canvas
    everything = [*page.outputs, *form.inputs]
    page.actions.restore(partial(actions.restore, page), page.chosen, everything, **EVENT)
    page.actions.again(partial(actions.again, page), page.chosen, everything, **EVENT)
    page.actions.compare(partial(actions.compare, page), page.chosen, [page.panel, page.pinned], **EVENT)
    page.actions.delete(partial(actions.delete, page), page.chosen, page.outputs, **EVENT)
    for task, event in (("edit", page.actions.edit), ("upscale", page.actions.upscale)):

        def take(name: str, value: Any, task: Any = task) -> dict[Any, Any]:
            return actions.take(page, name, task, value)

        event(take, [page.chosen, canvas], [page.panel, canvas], **EVENT)
    opening, masking = partial(actions.opened, page), partial(actions.opened_mask, page)
    files["open"].upload(opening, [files["open"], canvas, page.chosen], everything, **EVENT)
    files["open_mask"].upload(masking, [files["open_mask"], canvas, page.chosen], [page.panel, canvas], **EVENT)
    for name, save in (("save_layout", actions.save_layout), ("save_mask", actions.save_mask)):
        files[name].click(partial(save, page), [canvas, page.chosen], [page.panel, page.saved], **EVENT)
