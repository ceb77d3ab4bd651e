"""What all sessions share: one model, its job queue, and the gallery that its images go to."""

import dataclasses
from collections.abc import Iterator, Sequence

from PIL import Image

from ediffi.io.images import open_image
from ediffi.pipeline.cascade import Cascade
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.sampling import Progress
from ediffi.pipeline.style import Style
from ediffi.studio.attention_view import AttentionView, attention_view
from ediffi.studio.gallery import Gallery
from ediffi.studio.jobs import JobEvent, JobQueue
from ediffi.studio.progress import StepTimes
from ediffi.studio.request import KEY, GenerationRequest
from ediffi.studio.restoring import restored
from ediffi.studio.variations import varied_noise
from ediffi.studio.views import index_of


class NotSavedError(Exception):
    """Images were made and could not be stored."""

    def __init__(self, images: Sequence[Image.Image], error: OSError) -> None:
        super().__init__(f"the images could not be stored, save them from here: {error}")
        self.images = images


class Backend:
    """A model and the gallery that its images go to."""

    def __init__(self, cascade: Cascade, gallery: Gallery) -> None:
        self.cascade, self.gallery = cascade, gallery
        self.jobs, self.step_times = JobQueue(), StepTimes()

    def notices(self, request: GenerationRequest) -> list[str]:
        """The parts of a request that have no effect, a sentence each."""
        notices = self.cascade.prompt_notices(request.prompt)
        if request.task == "upscale" and request.layout.regions:
            return [*notices, "the layout has no effect: enlarging starts after the base stage, which reads it"]
        if unpainted := request.layout.unpainted:
            notices.append(f"no region is drawn for {', '.join(map(repr, unpainted))}")
        return notices

    def generate(self, session: str, request: GenerationRequest) -> Iterator[JobEvent]:
        """Check a request, then iterate over its job, which puts images into the gallery and results in their names.

        FileNotFoundError: the style image does not exist. ValueError: the request cannot be carried out.
        """
        request.check(self.cascade)
        options = self._options(request)

        def work(progress: Progress) -> list[str]:
            result = self.cascade.generate(request.prompt, options, progress)
            settings = {**result.settings, KEY: request.to_json()}
            try:
                return self.gallery.add(result.images, settings, list(request.inputs.values()))
            except OSError as error:
                raise NotSavedError(result.images, error) from error

        return self.jobs.run(session, work)

    def attention(self, session: str, name: str) -> Iterator[JobEvent]:
        """Iterate over a job that samples an image of the gallery again and results in its `AttentionView`.

        FileNotFoundError: the image does not exist. ValueError: it is another model's, or its settings lack an input.
        """
        settings = self.gallery.image(name).settings
        if settings.get("model") != self.cascade.name:
            raise ValueError(f"{name} is an image of {settings.get('model')!r}; this page runs {self.cascade.name!r}")
        found = restored(settings, self.cascade, self.gallery, self.gallery.folder / name)
        if found.missing:
            raise ValueError(f"{name} cannot be sampled again: it lacks {', '.join(found.missing)}")
        request = found.request
        steps = request.num_inference_steps[:1] or None  # the base stage is sampled alone
        request = dataclasses.replace(request, first_index=index_of(settings), num_images=1)
        options = dataclasses.replace(self._options(request), num_inference_steps=steps)
        image = open_image(self.gallery.folder / name, exif=True)

        def work(progress: Progress) -> AttentionView:
            return attention_view(self.cascade, request.prompt, options, image, progress)

        return self.jobs.run(session, work)

    def close(self, seconds: float = 10.0) -> None:
        """Stop all jobs, and wait at most `seconds` until the model is idle."""
        self.jobs.stop()
        self.jobs.wait_until_idle(seconds)

    def _options(self, request: GenerationRequest) -> SamplingOptions:
        style = Style(self.gallery.style(request.style), request.style_scale) if request.style else None
        source = self.gallery.source(request.source) if request.source and request.task != "sample" else None
        options = request.options(style, source)
        if not request.variation:
            return options
        first, _ = options.entry(self.cascade.stages, 1, self.cascade.device)
        numbers = range(request.first_index, request.first_index + request.num_images)
        stage = self.cascade.stages[first]
        noise = varied_noise(stage, request.seed, request.variation_of, numbers, request.variation)
        return dataclasses.replace(options, noise={stage.name: noise})

    def strengths(self, request: GenerationRequest) -> list[float]:
        """The share of each stage's steps that run."""
        count = len(self.cascade.stages)
        if request.task == "edit":
            return [request.strength] * count
        if request.task == "upscale" and request.source:
            first, _ = self._options(request).entry(self.cascade.stages, 1, self.cascade.device)
            return [float(k >= first) for k in range(count)]
        return [1.0] * count
