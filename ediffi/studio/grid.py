"""A grid of images over guidance and paint weight: its requests, its table, and the updates of the page."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ediffi.studio.canvas import CanvasLayout
from ediffi.studio.form import Updates
from ediffi.studio.jobs import Finished, Stopped
from ediffi.studio.page import Page, reason
from ediffi.studio.progress import JobProgress
from ediffi.studio.request import GenerationRequest
from ediffi.studio.views import file_url, gallery_grid

MOST = 6
"""Most values of an axis."""


def grid_requests(request: GenerationRequest, guidance: str, paint: str) -> list[list[GenerationRequest]]:
    """Rows of requests for one image each, a row for each paint weight; ValueError: a list is no numbers."""
    scales, weights = _numbers("Guidance", guidance), _numbers("Paint weight", paint)
    if len(weights) > 1 and not request.regions:
        raise ValueError("nothing is painted, so the paint weight changes nothing: give one, or paint a layout")
    one = dataclasses.replace(request, num_images=1)
    rows = [one if weight else dataclasses.replace(one, layout=CanvasLayout()) for weight in weights]  # 0 is no layout
    return [
        [dataclasses.replace(row, paint_weight=weight, guidance_scale=scale) for scale in scales]
        for row, weight in zip(rows, weights, strict=True)
    ]


def draw_grid(page: Page, values: Mapping[Any, Any], guidance: str, paint: str, session: str) -> Iterator[Updates]:
    """Make the images of a grid, one after the other: the updates of the page."""
    backend, made = page.backend, dict[tuple[int, int], str]()
    try:
        rows = grid_requests(page.form.request(values), guidance, paint)
        for request in (request for row in rows for request in row):
            request.check(backend.cascade)
    except (ValueError, OSError) as error:
        yield {page.sheet: _alert(error)}
        return
    yield {page.sheet: _table(page, rows, made), **page.buttons(busy=True)}
    try:
        for at, request in (((i, k), request) for i, row in enumerate(rows) for k, request in enumerate(row)):
            plan, strengths = backend.cascade.plan(request.options()), backend.strengths(request)
            progress = JobProgress(backend.cascade, plan, backend.step_times, strengths=strengths)
            for event in backend.generate(session, request):
                progress.update(event)
                if isinstance(event, Finished):
                    made[at] = event.result[0]
                    grid = gallery_grid(backend.gallery, backend.gallery.images(), made[at])
                    yield {page.sheet: _table(page, rows, made), page.gallery: grid}
                else:
                    yield {page.stages: progress.stages()}
    except Stopped:
        pass  # what is made so far stays
    except Exception as error:
        yield {page.sheet: _alert(error) + _table(page, rows, made)}
    yield page.buttons(busy=False)


def _numbers(name: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.replace(";", ",").split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not 0 < len(numbers) <= MOST or not all(0 <= number < float("inf") for number in numbers):
        raise ValueError(f"{name} of the grid must be 1 to {MOST} numbers of at least 0, as in 1, 3, 6; got {text!r}")
    return numbers


def _alert(error: Exception) -> str:
    return f'<p class="alert" role="alert">{escape(reason(error))}</p>'


def _table(page: Page, rows: Sequence[Sequence[GenerationRequest]], made: Mapping[tuple[int, int], str]) -> str:
    """The grid as a table; images that are not made yet are blank."""
    gallery = page.backend.gallery
    head = "".join(f'<th scope="col">guidance {request.guidance_scale:g}</th>' for request in rows[0])
    body = ""
    for i, row in enumerate(rows):
        body += f'<tr><th scope="row">paint {row[0].paint_weight:g}</th>'
        for k, request in enumerate(row):
            label = f"guidance {request.guidance_scale:g}, paint weight {request.paint_weight:g}"
            name = made.get((i, k))
            image = f'<img src="{escape(file_url(gallery, name))}" alt="{label}">' if name else ""
            card = '<div class="card"></div>'
            if name:
                card = f'<button type="button" class="card" data-name="{escape(name)}">{image}</button>'
            body += f"<td>{card}</td>"
        body += "</tr>"
    return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
