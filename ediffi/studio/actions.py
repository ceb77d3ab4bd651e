"""What is done with an image of the gallery, and with files that are opened or saved: new values of the page."""

import base64
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ediffi.diffusion.layout import layout_json
from ediffi.io import png
from ediffi.studio.canvas import CanvasLayout, mask_at
from ediffi.studio.form import Updates, input_value
from ediffi.studio.gallery import SOURCES
from ediffi.studio.opening import Layout, Painting, open_files, open_mask
from ediffi.studio.page import Page, reason
from ediffi.studio.request import MAX_IMAGES, GenerationRequest, Task
from ediffi.studio.restoring import restored
from ediffi.studio.views import ODD, compare_panel, file_url, image_panel, index_of

VARIATION = 0.3
"""Share of new noise of the variations that a button makes."""


def restore(page: Page, name: str, alone: bool = False) -> Updates:
    """The form with the request of an image, or of this image `alone` if its call made several."""
    gallery, cascade = page.backend.gallery, page.backend.cascade
    try:
        settings = gallery.image(name).settings
        found = restored(settings, cascade, gallery, gallery.folder / name)
    except (*ODD, OSError) as error:
        text = error if isinstance(error, ValueError | OSError) else "they are of another version"
        message = f"the settings of {name} cannot be restored: {text}"
        return {page.panel: image_panel(page.urls([name]), "", error=message)}
    request = found.request
    if alone:
        request = dataclasses.replace(request, first_index=index_of(settings), num_images=1)
    lacks = [f"the form lacks what it has no field for, or the file does not hold: {', '.join(found.missing)}"]
    notices = [*(lacks if found.missing else ()), *found.notices]
    if settings.get("model") != cascade.name:
        notices.append(f"{name} is an image of {settings.get('model')!r}; this page runs {cascade.name!r}")
    panel = image_panel(page.urls([name]), request.prompt, detail=f"seed {request.seed}", notices=notices)
    return {page.panel: panel, **page.form.values(request, gallery)}


def again(page: Page, name: str) -> Updates:
    """The form with the request of this image alone."""
    return restore(page, name, alone=True)


def vary(page: Page, name: str) -> Updates:
    """The form with a request for four variations of an image; of a variation, for the next four of the same image."""
    shown = restore(page, name)
    if page.form.canvas not in shown:
        return shown
    request = page.form.request(shown)
    index = index_of(page.backend.gallery.image(name).settings)
    fresh = {"variation": VARIATION, "variation_of": index, "first_index": index + 1}
    more = {"first_index": request.first_index + request.num_images}
    changed = {**request.to_json(), **(more if request.variation else fresh), "num_images": MAX_IMAGES}
    return {**shown, **page.form.values(GenerationRequest.from_json(changed), page.backend.gallery)}


def compare(page: Page, name: str) -> Updates:
    """The image over the one it was made from; of a new image, over the next one that is chosen."""
    gallery = page.backend.gallery
    try:
        found = restored(gallery.image(name).settings, page.backend.cascade, gallery, gallery.folder / name)
        source = found.request.inputs.get("source")
    except (*ODD, OSError):  # another version's settings
        source = None
    if source and (gallery.folder / source).is_file():
        names = ("before", "after")
        return {page.panel: compare_panel([file_url(gallery, source), *page.urls([name])], names), page.pinned: ""}
    notice = "choose another image below to compare this one with"
    return {page.panel: image_panel(page.urls([name]), "", notices=[notice]), page.pinned: name}


def choose(page: Page, name: str, pinned: str) -> Updates:
    """The page with an image, beside the one that waits to be compared with it."""
    shown = {**page.show(name), page.pinned: ""}
    if pinned and shown[page.chosen] and pinned != name:
        shown[page.panel] = compare_panel(page.urls([pinned, name]), (pinned, name))
    return shown


def delete(page: Page, name: str) -> Updates:
    """The page without an image, which the next one takes the place of."""
    gallery = page.backend.gallery
    names = [image.name for image in gallery.images()]
    try:
        moved = gallery.delete(name)
    except OSError as error:
        return {page.panel: image_panel(page.urls([name]), "", error=str(error))}
    place = names.index(name) if name in names else 0
    rest = [other for other in names if other != name]
    following = rest[min(place, len(rest) - 1)] if rest else ""
    panel = image_panel(page.urls([following]), "", notices=[f"{name} is now in {moved.parent}"])
    return {**page.show(following), page.panel: panel}


def take(page: Page, name: str, task: Task, canvas: dict[str, Any]) -> Updates:
    """The canvas with an image of the gallery as what is changed or enlarged."""
    gallery = page.backend.gallery
    try:
        source = gallery.add_source(gallery.folder / gallery.image(name).name)
    except (ValueError, OSError) as error:
        return {page.panel: image_panel([], "", error=reason(error))}
    return {page.form.canvas: _with_source(page, canvas, source, task)}


def opened(page: Page, files: Sequence[str], canvas: dict[str, Any], chosen: str) -> Updates:
    """The page with the content of files that the user opened, dropped or pasted; `chosen` is the image it shows."""
    try:
        found = open_files(page.backend.gallery, [Path(file) for file in files])
    except (ValueError, OSError) as error:
        return {page.panel: image_panel(page.urls([chosen]), "", error=reason(error))}
    finally:
        _forget(files)
    canvas = canvas or {}
    if isinstance(found, Painting):
        return {**page.show(found.name), **restore(page, found.name)}
    panel = image_panel(page.urls([chosen]), "", notices=found.notices)
    if isinstance(found, Layout):
        task = "edit" if canvas.get("task") == "edit" else "sample"
        return {page.panel: panel, page.form.canvas: {**canvas, "task": task, **found.layout.to_json()}}
    kind: Task = "upscale" if canvas.get("task") == "upscale" else "edit"
    return {page.panel: panel, page.form.canvas: _with_source(page, canvas, found.name, kind)}


def opened_mask(page: Page, file: str, canvas: dict[str, Any], chosen: str) -> Updates:
    """The canvas with a mask from a file."""
    try:
        mask = open_mask(Path(file))
    except (ValueError, OSError) as error:
        return {page.panel: image_panel(page.urls([chosen]), "", error=reason(error))}
    finally:
        _forget([file])
    panel = image_panel(page.urls([chosen]), "", notices=mask.notices)
    return {page.panel: panel, page.form.canvas: {**(canvas or {}), "mask": mask.url}}


def save_layout(page: Page, canvas: dict[str, Any], chosen: str) -> Updates:
    """The layout as a file for `ediffi sample --paint`."""
    try:
        regions = CanvasLayout.from_json(canvas).regions
        if not regions:
            raise ValueError("nothing is painted, so there is no layout to save")
    except ValueError as error:
        return {page.panel: image_panel(page.urls([chosen]), "", error=str(error))}
    content = base64.b64encode(layout_json(regions).encode()).decode()
    return {page.saved: _file("layout.json", f"data:application/json;base64,{content}")}


def save_mask(page: Page, canvas: dict[str, Any], chosen: str) -> Updates:
    """The area to repaint as a file for `ediffi edit --mask`, of the size of the image."""
    try:
        source = page.backend.gallery.source((canvas or {}).get("source", {}).get("name", ""))
        mask = mask_at((canvas or {}).get("mask", ""), source.width)
        if mask is None:
            raise ValueError("nothing is marked, so there is no mask to save")
    except (ValueError, OSError) as error:
        return {page.panel: image_panel(page.urls([chosen]), "", error=reason(error))}
    return {page.saved: _file("mask.png", png.data_url(mask))}


def _file(name: str, url: str) -> dict[str, Any]:
    return {"name": name, "url": url, "time": time.time()}  # the time makes a file that is saved again another value


def _forget(files: Sequence[str]) -> None:
    for file in files:
        Path(file).unlink(missing_ok=True)  # Gradio keeps uploads for ever


def _with_source(page: Page, canvas: dict[str, Any], source: str, task: Task) -> dict[str, Any]:
    return {**(canvas or {}), "task": task, "source": input_value(page.backend.gallery, SOURCES, source), "mask": ""}
