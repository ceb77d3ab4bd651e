"""The parts of the page that show images, as HTML: the image panel, the gallery, and the details of one image."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from PIL import Image

from ediffi.studio.gallery import Gallery, GalleryImage
from ediffi.studio.guard import FILES

ODD = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading settings raises that are not as we write them: the folder may hold any PNG file."""
ACTIONS = {
    "restore": ("Use settings", "fill the form with the settings of this image"),
    "again": ("This one again", "fill the form so that this image alone is made again, to vary its settings"),
    "vary": ("Variations", "make four images like this one, from noise that is partly new"),
    "compare": ("Compare", "lay this image over the one it was made from, or over another one"),
    "edit": ("Change", "start from this image, and repaint all of it or a part"),
    "upscale": ("Enlarge", "give this image more pixels"),
    "delete": ("Delete", "move this image to the folder of deleted images"),
}
"""What can be done with an image, by the name of the event: the button's text, and what it does."""
MAX_PNG_SIDE = 64
"""Larger previews are sent as JPEG."""


def data_url(image: Image.Image) -> str:
    """An image as a data URL."""
    kind, options = ("png", {}) if image.width <= MAX_PNG_SIDE else ("jpeg", {"quality": 85})
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def file_url(gallery: Gallery, name: str) -> str:
    """The address of a file of the gallery, as `Guard` serves it; it changes with the file."""
    path = gallery.folder / name
    return f"{FILES}{quote(name)}?{path.stat().st_mtime_ns if path.is_file() else 0}"


def image_panel(
    sources: Sequence[str],
    text: str,
    detail: str = "",
    share: float | None = None,
    error: str = "",
    notices: Sequence[str] = (),
) -> str:
    """Images by their addresses, with a line of text and a progress bar above them, `detail` at its right end.

    `share` of the work is done, 0 to 1; None shows no bar. `error` and `notices` are shown on the images.
    """
    images = "".join(f'<img src="{escape(source)}" alt="generated image">' for source in sources)
    images = images or '<div class="blank">The image appears here.</div>'
    alert = f'<div class="alert" role="alert">{escape(error)}</div>' if error else ""
    messages = alert + "".join(f'<div class="notice" role="status">{escape(notice)}</div>' for notice in notices)
    bar = "" if share is None else f'<i style="width:{100 * share:.1f}%"></i>'
    return (
        f'<div class="line"><span>{escape(text)}</span><em>{escape(detail)}</em></div>'
        f'<div class="bar{" on" * (share is not None)}">{bar}</div>'
        f'<div class="panel n{min(len(sources), 4)}">{images}<div class="messages">{messages}</div></div>'
    )


def compare_panel(sources: Sequence[str], names: Sequence[str]) -> str:
    """Two images by their addresses, one over the other, with a slider between them."""
    (left, right), (first, second) = map(escape, sources), map(escape, names)
    return (
        f'<div class="line"><span>{first} | {second}</span><em>drag to compare</em></div><div class="bar"></div>'
        f'<div class="panel compare n1"><img src="{left}" alt="{first}"><img class="over" src="{right}" alt="{second}">'
        f'<i></i><input type="range" min="0" max="100" value="50" aria-label="compare {first} and {second}"></div>'
    )


def gallery_grid(gallery: Gallery, images: Sequence[GalleryImage], chosen: str) -> str:
    """The images of the gallery as buttons; `chosen` is the name of the marked one."""
    cards = "".join(
        f'<button type="button" data-name="{escape(image.name)}" class="card{" chosen" * (image.name == chosen)}" '
        f'title="{escape(prompt_of(image))}"><img loading="lazy" src="{escape(file_url(gallery, image.name))}" '
        f'alt="{escape(prompt_of(image))}"></button>'
        for image in images
    )
    empty = "<p>Generated images appear here. They are stored in the output folder.</p>"
    return f'<div class="grid">{cards or empty}</div>'


def image_actions(gallery: Gallery, image: GalleryImage | None) -> str:
    """What can be done with an image: buttons, and the link to its file; empty for None."""
    if image is None:
        return '<div class="actions"></div>'
    buttons = "".join(
        f'<button type="button" data-action="{action}" title="{title}">{label}</button>'
        for action, (label, title) in ACTIONS.items()
    )
    link = f'<a href="{escape(file_url(gallery, image.name))}" download="{escape(image.name)}">Download</a>'
    return f'<div class="actions">{buttons}{link}</div>'


def image_details(gallery: Gallery, image: GalleryImage | None, notices: Sequence[str] = ()) -> str:
    """The prompt, the settings and the file of an image; empty for None."""
    if image is None:
        return '<div class="details"></div>'
    try:
        rows = _rows(image.settings)
    except ODD:  # settings of another version
        rows = [("settings", "written by another version")]
    rows.append(("file", str(gallery.folder / image.name)))
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    noticed = "".join(f'<p class="notice">{escape(notice)}</p>' for notice in notices)
    return f'<div class="details"><p class="prompt">{escape(prompt_of(image))}</p><dl>{listed}</dl>{noticed}</div>'


def prompt_of(image: GalleryImage) -> str:
    """The prompt of an image; of a call with several prompts, all of them."""
    prompt = image.settings.get("prompt", "")
    text = ", ".join(map(str, prompt)) if isinstance(prompt, list) else str(prompt)
    return text.encode(errors="replace").decode()  # a lone surrogate could not be sent


def index_of(settings: Mapping[str, Any]) -> int:
    """The number of an image in its run, from 0: with the seed, it decides the noise."""
    return int(settings.get("first_index", 0)) + int(settings.get("index", 0))


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    stages: Mapping[str, Mapping[str, Any]] = settings.get("stages", {})
    steps = ", ".join(f"{name} {stage['num_inference_steps']}" for name, stage in stages.items())
    samplers = ", ".join(dict.fromkeys(stage["sampler"] for stage in stages.values()))
    base = next(iter(stages.values()), {})
    request = settings.get("order", {})
    index = index_of(settings)
    rows = [("seed", f"{settings.get('seed', '?')}" + (f", image {index + 1}" if index else ""))]
    if settings.get("negative_prompt"):
        rows.append(("without", str(settings["negative_prompt"])))
    rows += [
        ("model", str(settings.get("model", "?"))),
        ("steps", f"{steps}, by {samplers}"),
        ("guidance", f"{base.get('guidance_scale', 1):g}"),
    ]
    if brushes := request.get("layout", {}).get("brushes"):
        phrases = ", ".join(str(brush["phrase"]) for brush in brushes)
        rows.append(("painted", f"{phrases} (weight {request['paint_weight']:g})"))
    if request.get("task") == "edit":
        where = "the marked part" if request.get("mask") else "all of it"
        rows.append(("changed", f"{where}, strength {request['strength']:g}"))
    elif request.get("task") == "upscale":
        stage = request.get("first_stage")
        rows.append(("enlarged", f"from another image{f', from {stage} on' if stage else ''}"))
    if settings.get("style"):
        rows.append(("style", f"image, scale {settings['style']['scale']:g}"))
    return rows
