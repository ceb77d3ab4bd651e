"""The form: the fields that a visitor orders with, filled with the model's own settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ediffi.io.images import open_image
from ediffi.studio.canvas import PHRASES
from ediffi.studio.desk import Desk
from ediffi.studio.order import Order, sampler_names
from ediffi.studio.sheet import file_url
from ediffi.studio.shelf import STYLES, Shelf

OWN = "the model's own"
"""What the list of samplers says for none."""
THUMB = (
    '<div class="thumb ${value.name ? `full` : ``}">${value.name ? `<img src="${value.url}" alt="the style picture">'
    '<button type="button" title="take it away">×</button>` : ``}</div>'
)
TAKE_AWAY = 'element.addEventListener("click", (event) => { if (event.target.closest("button")) props.value = {}; });'
DICE = "() => Math.floor(Math.random() * 4294967296)"


@dataclass(frozen=True)
class Form:
    """The components of the form.

    Attributes:
        fields: by the name of what they hold of an `Order`, but for steps and layout.
        steps: a number for each stage.
        upload: takes a style picture.
        dice: draws a new seed.
        paint: the button that starts.
        stop: the button that stops.
    """

    fields: Mapping[str, Any]
    steps: tuple[Any, ...]
    upload: Any
    dice: Any
    paint: Any
    stop: Any

    def order(self, values: Mapping[Any, Any], layout: Any) -> Order:
        """The order that the components' values make; raises as `Order.from_json`."""
        content = {name: values[field] for name, field in self.fields.items()}
        return Order.from_json(
            {
                **content,
                "sampler": "" if content["sampler"] == OWN else content["sampler"],
                "style": (content["style"] or {}).get("name"),
                "num_inference_steps": [values[one] for one in self.steps],
                "layout": layout,
            }
        )

    def filled(self, order: Order, shelf: Shelf) -> dict[Any, Any]:
        """The components' values for an order."""
        content = {**order.to_json(), "sampler": order.sampler or OWN, "style": style_value(shelf, order.style)}
        filled = {field: content[name] for name, field in self.fields.items()}
        return {**filled, **dict(zip(self.steps, order.num_inference_steps, strict=False))}

    @property
    def inputs(self) -> set[Any]:
        """All that an order is read from."""
        return {*self.fields.values(), *self.steps}


def form(desk: Desk, order: Order) -> Form:
    """Build the form in the open `gradio.Blocks`, with what an order says."""
    import gradio as gr

    able = bool(desk.cascade.image_encoders)
    prompt = gr.Textbox(
        order.prompt, label="Prompt", lines=3, max_lines=6, elem_id="prompt", placeholder="a red circle"
    )
    gr.HTML(PHRASES, elem_id="phrases", apply_default_css=False)
    fields: dict[str, Any] = {"prompt": prompt}
    fields["negative_prompt"] = gr.Textbox(
        label="Negative prompt", placeholder="what it should not show", elem_id="negative"
    )
    with gr.Row(elem_id="buttons"):
        paint = gr.Button("Paint", variant="primary", elem_id="paint", min_width=120, scale=3)
        stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=60, scale=1)
    with gr.Row(elem_id="luck"):
        fields["seed"] = gr.Number(order.seed, label="Seed", precision=0, min_width=60)
        dice = gr.Button("New", size="sm", min_width=40, elem_id="dice")
        fields["num_images"] = gr.Number(1, label="Pictures", precision=0, min_width=40)
    with gr.Row():
        fields["guidance_scale"] = _slider("Guidance", order.guidance_scale, 10.0)
        fields["paint_weight"] = _slider("Paint weight", order.paint_weight, 10.0)
    with gr.Row(elem_id="steps"):
        steps = tuple(
            gr.Number(count, label=f"{stage.name} steps", precision=0, min_width=40)
            for stage, count in zip(desk.cascade.stages, order.num_inference_steps, strict=True)
        )
    fields["sampler"] = gr.Dropdown([OWN, *sampler_names()], value=OWN, label="Sampler", elem_id="sampler")
    with gr.Row(elem_id="style"):
        fields["style"] = gr.HTML({}, html_template=THUMB, js_on_load=TAKE_AWAY, apply_default_css=False, min_width=56)
        with gr.Column(min_width=60):
            upload = gr.UploadButton(
                "Style picture …", file_types=["image"], size="sm", elem_id="upload", interactive=able
            )
            fields["style_scale"] = _slider("Style scale", order.style_scale, 3.0)
    return Form(fields, steps, upload, dice, paint, stop)


def style_value(shelf: Shelf, name: str) -> dict[str, str]:
    """What the style field holds for a picture that the shelf keeps."""
    return {"name": name, "url": file_url(shelf, f"{STYLES}/{name}.png")} if name else {}


def uploaded(shelf: Shelf, path: str) -> dict[str, str]:
    """Keep an uploaded style picture on the shelf.

    Raises:
        ValueError: it is no picture, is broken, or has too many pixels.
    """
    try:
        return style_value(shelf, shelf.keep_style(open_image(Path(path), exif=True)))
    except ValueError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from None


def _slider(label: str, value: float, top: float) -> Any:
    import gradio as gr

    return gr.Slider(0.0, max(top, value), value=value, step=0.1, label=label, min_width=100, buttons=[])
