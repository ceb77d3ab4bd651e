"""What is done with an image of the gallery, or with files that are opened: new values of the page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ediffi.studio.form import Updates, input_value
from ediffi.studio.gallery import SOURCES
from ediffi.studio.opening import open_files
from ediffi.studio.page import Page, reason
from ediffi.studio.request import GenerationRequest, Task, missing_inputs
from ediffi.studio.views import ODD, image_panel


def restore(page: Page, name: str) -> Updates:
    """The form with the request of an image."""
    try:
        settings = page.backend.gallery.image(name).settings
        request = GenerationRequest.from_settings(settings, page.backend.cascade)
    except (*ODD, OSError) as error:
        message = f"the settings of {name} cannot be restored: {error}"
        return {page.panel: image_panel(page.urls([name]), "", error=message)}
    missing = ", ".join(missing_inputs(settings))
    notices = [f"not stored in the image, so not restored: {missing}"] if missing else []
    panel = image_panel(page.urls([name]), request.prompt, detail=f"seed {request.seed}", notices=notices)
    return {page.panel: panel, **page.form.values(request, page.backend.gallery)}


def take(page: Page, name: str, task: Task, canvas: dict[str, Any]) -> Updates:
    """The canvas with an image of the gallery as what is changed or enlarged."""
    gallery = page.backend.gallery
    try:
        source = gallery.add_source(gallery.folder / gallery.image(name).name)
    except (ValueError, OSError) as error:
        return {page.panel: image_panel([], "", error=reason(error))}
    return {page.form.canvas: _with_source(page, canvas, source, task)}


def opened(page: Page, files: Sequence[str], canvas: dict[str, Any], name: str) -> Updates:
    """The page with the content of files that the user opened, dropped or pasted; `name` is the chosen image."""
    paths = [Path(file) for file in files]
    try:
        found = open_files(page.backend.gallery, paths)
    except (ValueError, OSError) as error:
        return {page.panel: image_panel(page.urls([name]), "", error=reason(error))}
    finally:
        for path in paths:
            path.unlink(missing_ok=True)  # Gradio keeps uploads for ever
    task: Task = "upscale" if (canvas or {}).get("task") == "upscale" else "edit"
    panel = image_panel(page.urls([name]), "", notices=found.notices)
    return {page.panel: panel, page.form.canvas: _with_source(page, canvas, found.source, task)}


def _with_source(page: Page, canvas: dict[str, Any], source: str, task: Task) -> dict[str, Any]:
    return {**(canvas or {}), "task": task, "source": input_value(page.backend.gallery, SOURCES, source), "mask": ""}
