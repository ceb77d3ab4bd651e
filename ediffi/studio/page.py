"""The page while it is used: what its components show while images are made, and of an image of the gallery."""

import html
import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ediffi.io import png
from ediffi.studio.backend import Backend, NotSavedError
from ediffi.studio.form import Form, Updates
from ediffi.studio.jobs import Finished, Stopped, Waiting
from ediffi.studio.progress import JobProgress
from ediffi.studio.restoring import restored
from ediffi.studio.views import ODD, file_url, gallery_grid, image_actions, image_details, image_panel, prompt_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Page:
    """The components that change, and how."""

    backend: Backend
    form: Form
    generate: Any  # button that starts a job
    stop: Any  # button that stops it
    panel: Any  # the current images
    actions: Any  # what can be done with the chosen image
    stages: Any  # cards of the stages
    gallery: Any  # the stored images
    details: Any  # settings of the chosen image
    attention: Any  # its attention maps
    show_attention: Any  # button that computes them
    sheet: Any  # a grid of images
    saved: Any  # a file that the browser saves
    pinned: Any  # name of an image that the next one is compared with
    chosen: Any  # name of the chosen image; each browser tab has its own

    @property
    def outputs(self) -> list[Any]:
        """The components that show an image and its settings."""
        about = [self.actions, self.details, self.attention, self.show_attention, self.chosen]
        return [self.panel, self.stages, self.gallery, *about]

    def run(self, values: Mapping[Any, Any], session: str) -> Iterator[Updates]:
        """Generate images from the form: the updates of the page until they are in the gallery."""
        backend = self.backend
        before = self.urls([values[self.chosen]])  # shown until the first estimate
        try:
            request = self.form.request(values)
            events = backend.generate(session, request)
            plan = backend.cascade.plan(request.options())
            notices, strengths = backend.notices(request), backend.strengths(request)
        except (ValueError, OSError) as error:
            yield {self.panel: image_panel(before, "no image", error=str(error))}
            return
        progress = JobProgress(backend.cascade, plan, backend.step_times, request.num_images, notices, strengths)
        started = {self.form.fields["seed"]: request.seed, **self.buttons(busy=True)}
        yield {self.panel: progress.panel(before), self.stages: progress.stages(), **started}
        try:
            for event in events:
                progress.update(event)
                if isinstance(event, Finished):
                    images = image_panel(self.urls(event.result), request.prompt, detail=f"seed {request.seed}")
                    done = {self.panel: images, self.stages: progress.stages(over=True), **self.buttons(busy=False)}
                    yield {**self.show(event.result[0]), **done}
                else:
                    yield {self.panel: progress.panel(before), self.stages: progress.stages()}
        except Stopped:
            shown = {self.panel: image_panel(before, "stopped"), self.stages: progress.stages(over=True)}
            yield {**shown, **self.buttons(busy=False)}
        except NotSavedError as error:
            unsaved = [png.data_url(image) for image in error.images]
            panel = image_panel(unsaved, request.prompt, detail=f"seed {request.seed}", error=str(error))
            yield {self.panel: panel, self.stages: progress.stages(over=True), **self.buttons(busy=False)}
        except Exception as error:
            panel = image_panel(before, "no image", error=reason(error))
            yield {self.panel: panel, **self.buttons(busy=False)}

    def attend(self, name: str, session: str) -> Iterator[Updates]:
        """Compute the attention maps of an image: the updates of the page."""
        shown = "<p>Sampling the base stage again and recording its attention …</p>"
        yield {self.attention: shown, **self.buttons(busy=True)}
        try:
            for event in self.backend.attention(session, name):
                if isinstance(event, Waiting):
                    yield {self.attention: f"<p>Waiting for earlier jobs: {event.ahead}</p>"}
                elif isinstance(event, Finished):
                    shown = event.result.html()
        except Stopped:
            shown = "<p>Stopped.</p>"
        except Exception as error:
            shown = f'<p class="alert" role="alert">{html.escape(reason(error))}</p>'
        yield {self.attention: shown, **self.buttons(busy=False)}

    def show(self, name: str = "") -> Updates:
        """The page with an image of the gallery; without one if `name` is empty or the image does not exist."""
        import gradio as gr

        gallery, cascade = self.backend.gallery, self.backend.cascade
        images = gallery.images()
        image = next((image for image in images if image.name == name), None)
        settings = {} if image is None else image.settings
        try:
            request = restored(settings, cascade, gallery).request
            plan, notices = cascade.plan(request.options()), self.backend.notices(request) if request.prompt else []
            strengths = self.backend.strengths(request)
        except (*ODD, OSError):  # another model's settings, or another version's, or the source is gone
            plan, notices, strengths = cascade.plan(), [], []
        panel = image_panel([], "")
        if image is not None:
            panel = image_panel(self.urls([name]), prompt_of(image), detail=f"seed {settings.get('seed', '?')}")
        return {
            self.panel: panel,
            self.stages: JobProgress(cascade, plan, self.backend.step_times, strengths=strengths).stages(),
            self.gallery: gallery_grid(gallery, images, name),
            self.actions: image_actions(gallery, image),
            self.details: image_details(gallery, image, notices),
            self.attention: "",
            self.show_attention: gr.Button(interactive=image is not None),
            self.chosen: "" if image is None else name,
        }

    def show_newest(self) -> Updates:
        """The page with the newest image of the gallery."""
        return self.show(*(image.name for image in self.backend.gallery.images(1)))

    def urls(self, names: Sequence[str]) -> list[str]:
        """The addresses of images of the gallery; an empty name has none."""
        return [file_url(self.backend.gallery, name) for name in names if name]

    def buttons(self, *, busy: bool) -> Updates:
        """The buttons while a job runs, and while none does."""
        import gradio as gr

        return {self.generate: gr.Button(interactive=not busy), self.stop: gr.Button(interactive=busy)}


def reason(error: Exception) -> str:
    """The message for the user; the stack trace of a bug is logged."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    logger.error("".join(traceback.format_exception(error)).rstrip())
    return f"this is a bug, {type(error).__name__}: {error}; the terminal shows more"
