"""The desk: one model, the shelf its pictures go to, and the visitors it serves in turn."""

from collections.abc import Iterator
from contextlib import contextmanager

from ediffi.io.images import open_image
from ediffi.pipeline.cascade import Progress
from ediffi.pipeline.painter import Painter
from ediffi.studio.order import Order, lost, order_of
from ediffi.studio.pace import StepTimes
from ediffi.studio.run import Event, Line, Run, Work
from ediffi.studio.shelf import Shelf
from ediffi.studio.words import Words, watch


class Desk:
    """What all visitors share.

    Args:
        painter: the model.
        shelf: where the pictures go.
    """

    def __init__(self, painter: Painter, shelf: Shelf) -> None:
        self.painter, self.shelf = painter, shelf
        self.cascade = painter.cascade
        self.line, self.pace = Line(), StepTimes()
        self._runs: dict[str, list[Run]] = {}

    def notices(self, order: Order) -> list[str]:
        """What of an order has no effect, a sentence each."""
        notices = self.painter.notices(order.prompt)
        if unpainted := order.layout.unpainted:
            notices.append(f"nothing is painted for {', '.join(map(repr, unpainted))}")
        return notices

    def paint(self, visitor: str, order: Order) -> Iterator[Event]:
        """Sample pictures and put them on the shelf; the result is their names there.

        Args:
            visitor: whose run it is.
            order: what to paint.

        Raises:
            ValueError: the order cannot be painted; `order.check` says it without waiting.
            Stopped: the visitor stopped it.
        """
        order.check(self.cascade)
        options = order.options(self.shelf)

        def work(progress: Progress) -> list[str]:
            pictures = self.cascade(progress=progress, **options)
            return self.shelf.add(pictures.images, {**pictures.settings, "order": order.to_json()})

        yield from self._run(visitor, work)

    def words(self, visitor: str, name: str) -> Iterator[Event]:
        """Sample a picture of the shelf again and watch where its words go; the result is `Words`.

        Raises:
            FileNotFoundError: it is no longer there.
            ValueError: its settings are of another model, or the model has no cross-attention.
            Stopped: the visitor stopped it.
        """
        settings = self.shelf.entry(name).settings
        if settings.get("model") != self.cascade.name:
            raise ValueError(f"{name} was painted by {settings.get('model')!r}; this page holds {self.cascade.name!r}")
        if outside := lost(settings):
            raise ValueError(f"{name} does not hold its own {', '.join(outside)}, so it cannot be sampled again here")
        order = order_of(settings, self.cascade)
        index = int(settings.get("first_index", 0)) + int(settings.get("index", 0))
        image = open_image(self.shelf.path(name), exif=True)

        def work(progress: Progress) -> Words:
            return watch(self.cascade, order, self.shelf, index, image, progress)

        yield from self._run(visitor, work)

    def stop(self, visitor: str) -> None:
        """Stop all that a visitor runs, or waits for."""
        for run in list(self._runs.get(visitor, [])):
            run.stop()

    def close(self, seconds: float = 10.0) -> None:
        """Stop all runs, and wait until the model is at rest, but no longer than this."""
        for visitor in list(self._runs):
            self.stop(visitor)
        self.line.empty(seconds)

    def _run(self, visitor: str, work: Work) -> Iterator[Event]:
        run = Run(work, self.line)
        with self._kept(visitor, run):
            yield from run.events()

    @contextmanager
    def _kept(self, visitor: str, run: Run) -> Iterator[None]:
        self._runs.setdefault(visitor, []).append(run)
        try:
            yield
        finally:
            self._runs[visitor].remove(run)
            if not self._runs[visitor]:
                del self._runs[visitor]
