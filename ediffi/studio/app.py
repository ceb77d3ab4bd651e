"""The page of the studio: what stands where, and what happens when."""

import html
from collections.abc import Iterator
from typing import Any

from ediffi.studio.canvas import assets
from ediffi.studio.desk import Desk
from ediffi.studio.easel import Easel
from ediffi.studio.form import DICE, OWN, Form, form, uploaded
from ediffi.studio.order import Order
from ediffi.studio.page import Page
from ediffi.studio.sheet import sheet

PROMPTS = {"toybox": "a large red circle and a small blue square on a pink background"}
"""What the prompt opens with, for the models that ship."""
DARK = """
const dark = () => document.body.classList.contains("dark");
const stored = localStorage.getItem("ediffi-studio");
if (stored) document.body.classList.toggle("dark", stored === "dark");
element.querySelector("button").addEventListener("click", () => {
  document.body.classList.toggle("dark");
  localStorage.setItem("ediffi-studio", dark() ? "dark" : "light");
});
"""
CHOOSE = """
element.addEventListener("click", (event) => {
  const card = event.target.closest("[data-name]");
  if (card) trigger("choose", { name: card.dataset.name });
});
"""
AGAIN = """
element.addEventListener("click", (event) => {
  if (event.target.closest("[data-deed=again]")) trigger("again");
});
"""
TOLD = "(prompt, value) => ({ ...(value || {}), prompt })"
"""Tells the canvas the prompt, in the browser."""
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""The page shows progress itself, and is not to be called by programs."""


def build(desk: Desk) -> Any:
    """The page, as `gradio.Blocks`."""
    import gradio as gr

    order = Order.usual(desk.cascade, PROMPTS.get(desk.cascade.name, ""))
    with gr.Blocks(title="ediffi studio", fill_width=True, analytics_enabled=False) as blocks:
        with gr.Column(elem_id="room"):
            gr.HTML(_head(desk), js_on_load=DARK, elem_id="head", apply_default_css=False)
            with gr.Row(elem_id="desk"):
                with gr.Column(elem_id="form"):
                    fields = form(desk, order)
                with gr.Column(elem_id="wall"):
                    page = _wall(desk, order, fields)
        _connect(blocks, desk, page)
        _connect_shelf(blocks, desk, page)
    blocks.queue(default_concurrency_limit=None, max_size=64, api_open=False)
    return blocks


def _head(desk: Desk) -> str:
    sizes = " → ".join(f"{stage.resolution}²" for stage in desk.cascade.stages)
    model = html.escape(f"{desk.cascade.name}, {sizes}, on {desk.cascade.device}")
    colours = ("#e5484d", "#0a84ff", "#f5a524")
    mark = "".join(f'<i style="background:{colour}"></i>' for colour in colours)
    return (
        f'<div class="head"><span class="mark">{mark}</span><b>ediffi studio</b><span class="model">{model}</span>'
        '<span class="gap"></span><button type="button" title="light or dark">Light / dark</button></div>'
    )


def _wall(desk: Desk, order: Order, fields: Form) -> Page:
    """The canvas, the picture and the stages; below them the shelf and the words."""
    import gradio as gr

    def plain(value: Any = "", **options: Any) -> Any:
        return gr.HTML(value, apply_default_css=False, **options)

    with gr.Row(elem_id="easels"):
        canvas = plain({"prompt": order.prompt, "brushes": [], "image": ""}, elem_id="canvas", **assets())
        picture = plain(sheet([], ""), elem_id="sheet")
    stages = plain(Easel(desk.cascade, order.plan(desk.cascade), desk.pace).stages(), elem_id="stages")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Pictures"), gr.Row(elem_id="gallery"):
            shelf = plain(elem_id="shelf", js_on_load=CHOOSE)
            told = plain(elem_id="label", js_on_load=AGAIN)
        with gr.Tab("Where the words went"), gr.Column(elem_id="attention"):
            look = gr.Button("Look at the words of this picture", size="sm", interactive=False, elem_id="look")
            words = plain(elem_id="words")
    return Page(fields, canvas, picture, stages, shelf, told, words, look, gr.State(""))


def _connect(blocks: Any, desk: Desk, page: Page) -> None:
    """What starts and stops the model."""
    import gradio as gr

    def paint(values: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from page.painted(desk, values, str(request.session_hash))

    def look(name: str, request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from page.looked(desk, name, str(request.session_hash))

    def stop(request: gr.Request) -> None:
        desk.stop(str(request.session_hash))

    form, prompt = page.form, page.form.fields["prompt"]
    inputs = {page.canvas, page.chosen, *form.inputs}
    form.paint.click(paint, inputs, [*page.seen, form.paint, form.stop], **QUIET)
    prompt.submit(paint, inputs, [*page.seen, form.paint, form.stop], **QUIET)
    page.look.click(look, page.chosen, [page.words, form.paint, form.stop], **QUIET)
    form.stop.click(stop, **QUIET)
    blocks.unload(stop)
    prompt.change(None, [prompt, page.canvas], page.canvas, js=TOLD, **QUIET)


def _connect_shelf(blocks: Any, desk: Desk, page: Page) -> None:
    """What puts pictures on the easel and settings into the form."""
    import gradio as gr

    def choose(event: gr.EventData) -> dict[Any, Any]:
        return page.put_up(desk, str(event.name))

    def again(name: str) -> dict[Any, Any]:
        return page.filled(desk, name)

    def opened() -> dict[Any, Any]:
        entries = desk.shelf.entries(1)
        return page.put_up(desk, entries[0].name if entries else "")

    def style(path: str) -> dict[str, str]:
        try:
            return uploaded(desk.shelf, path)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    def steps(sampler: str) -> list[int]:
        plan = desk.cascade.plan(sampler=None if sampler == OWN else sampler)
        return [sampling.num_inference_steps for sampling in plan]

    form = page.form
    blocks.load(opened, None, page.seen, **QUIET)
    page.shelf.choose(choose, None, page.seen, **QUIET)
    page.label.again(again, page.chosen, [page.canvas, page.sheet, *form.inputs], **QUIET)
    form.upload.upload(style, form.upload, form.fields["style"], **QUIET)
    form.dice.click(None, None, form.fields["seed"], js=DICE, **QUIET)
    form.fields["sampler"].input(steps, form.fields["sampler"], list(form.steps), **QUIET)
