"""The page while it is used: its components, and what they show after each event."""

import html
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ediffi.pipeline.stage import Sampling
from ediffi.studio.catalogue import catalogue, label, prompt_of
from ediffi.studio.desk import Desk
from ediffi.studio.easel import Easel
from ediffi.studio.form import Form
from ediffi.studio.order import lost, order_of
from ediffi.studio.run import Finished, Stopped, Waiting
from ediffi.studio.sheet import file_url, sheet
from ediffi.studio.shelf import Entry

Updates = dict[Any, Any]
"""New values of components; the others stay."""


@dataclass(frozen=True)
class Page:
    """The components that change, and how.

    Attributes:
        form: the fields.
        canvas: phrases and paint.
        sheet: the picture.
        stages: the cards of the stages.
        shelf: the list of pictures.
        label: what is known of the chosen one.
        words: where its words went.
        look: finds that out.
        chosen: the name of the chosen picture, for each tab.
    """

    form: Form
    canvas: Any
    sheet: Any
    stages: Any
    shelf: Any
    label: Any
    words: Any
    look: Any
    chosen: Any

    @property
    def seen(self) -> list[Any]:
        """The components that show a picture and what is known of it."""
        return [self.sheet, self.stages, self.shelf, self.label, self.look, self.words, self.chosen]

    def painted(self, desk: Desk, values: Mapping[Any, Any], visitor: str) -> Iterator[Updates]:
        """Paint what the form says: the updates of the page, from the first estimate to the picture on the shelf."""
        before = _sources(desk, [values[self.chosen]])  # stays on the sheet until there is something newer
        try:
            order = self.form.order(values, values[self.canvas])
            order.check(desk.cascade)
            easel = Easel(desk.cascade, order.plan(desk.cascade), desk.pace, order.num_images, desk.notices(order))
        except (ValueError, OSError) as error:
            yield {self.sheet: sheet(before, "nothing is painted", error=str(error))}
            return
        yield {self.sheet: easel.picture(before), self.stages: easel.stages(), **self._busy(True)}
        try:
            for event in desk.paint(visitor, order):
                easel.show(event)
                if isinstance(event, Finished):
                    pictures = sheet(_sources(desk, event.result), order.prompt, detail=f"seed {order.seed}")
                    done = {self.sheet: pictures, self.stages: easel.stages(over=True), **self._busy(False)}
                    yield {**self.put_up(desk, event.result[0]), **done}
                else:
                    yield {self.sheet: easel.picture(before), self.stages: easel.stages()}
        except Stopped:
            yield {self.sheet: sheet(before, "stopped"), self.stages: easel.stages(over=True), **self._busy(False)}
        except Exception as error:
            yield {self.sheet: sheet(before, "nothing is painted", error=_reason(error)), **self._busy(False)}

    def looked(self, desk: Desk, name: str, visitor: str) -> Iterator[Updates]:
        """Find out where the words of a picture went: the updates of the page."""
        yield {self.words: "<p>Sampling the base stage once more, and watching …</p>", **self._busy(True)}
        try:
            for event in desk.words(visitor, name):
                if isinstance(event, Waiting):
                    yield {self.words: f"<p>Waiting, runs before this one: {event.ahead}</p>"}
                elif isinstance(event, Finished):
                    yield {self.words: event.result.page()}
            yield self._busy(False)
        except Stopped:
            yield {self.words: "<p>Stopped.</p>", **self._busy(False)}
        except Exception as error:
            yield {self.words: f'<p class="alert" role="alert">{html.escape(_reason(error))}</p>', **self._busy(False)}

    def put_up(self, desk: Desk, name: str) -> Updates:
        """The page with a picture of the shelf on the easel; with none if `name` is empty, or it is gone."""
        import gradio as gr

        entries = desk.shelf.entries()
        entry: Entry | None = next((entry for entry in entries if entry.name == name), None)
        plan, notices = _known(desk, entry)
        found = {
            self.shelf: catalogue(desk.shelf, entries, name),
            self.label: label(desk.shelf, entry, notices),
            self.look: gr.Button(interactive=entry is not None),
            self.words: "",
            self.chosen: "" if entry is None else name,
            self.stages: Easel(desk.cascade, plan, desk.pace).stages(),
        }
        if entry is None:
            return {**found, self.sheet: sheet([], "")}
        detail = f"seed {entry.settings.get('seed', '?')}"
        return {**found, self.sheet: sheet(_sources(desk, [name]), prompt_of(entry), detail=detail)}

    def filled(self, desk: Desk, name: str) -> Updates:
        """The form with the order behind a picture: its words, paint, seed and settings."""
        sources = _sources(desk, [name])
        try:
            settings = desk.shelf.entry(name).settings
            order = order_of(settings, desk.cascade)
        except (ValueError, TypeError, KeyError, OSError) as error:
            return {self.sheet: sheet(sources, "", error=f"the settings of {name} cannot be put back: {error}")}
        notices = [f"not in the picture, so not put back: {', '.join(outside)}"] if (outside := lost(settings)) else []
        told = {self.sheet: sheet(sources, order.prompt, detail=f"seed {order.seed}", notices=notices)}
        value = {"prompt": order.prompt, **order.layout.value()}
        return {**told, **self.form.filled(order, desk.shelf), self.canvas: value}

    def _busy(self, busy: bool) -> Updates:
        """The buttons while a run goes, and after."""
        import gradio as gr

        return {self.form.paint: gr.Button(interactive=not busy), self.form.stop: gr.Button(interactive=busy)}


def _sources(desk: Desk, names: Sequence[str]) -> list[str]:
    return [file_url(desk.shelf, name) for name in names if name]


def _known(desk: Desk, entry: Entry | None) -> tuple[list[Sampling], list[str]]:
    """How a picture was sampled, and what had no effect; the model's own plan if another model made it."""
    try:
        order = order_of(entry.settings if entry is not None else {}, desk.cascade)
        return order.plan(desk.cascade), desk.notices(order) if order.prompt else []
    except (ValueError, TypeError, KeyError):
        return desk.cascade.plan(), []


def _reason(error: Exception) -> str:
    """Why there is no picture: a sentence; a bug shows its stack trace in the terminal."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    traceback.print_exception(error)
    return f"this is a bug, {type(error).__name__}: {error}; the terminal shows more"
