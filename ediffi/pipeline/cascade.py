"""The cascade: a prompt becomes an image through a base stage and super-resolution stages.

Longer than other files: it is one class, the way into the package, and a quarter of it is documentation.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.layout import Region
from ediffi.hub.finding import CONFIG
from ediffi.io.devices import check_compile, find_device, find_dtype, out_of_memory
from ediffi.io.files import sha256
from ediffi.pipeline.call import (
    Generator,
    StepEnd,
    edits,
    layouts,
    low_resolution,
    plain,
    seeds,
    start_noise,
    step_end,
    styles,
)
from ediffi.pipeline.checkpoint import Residency, load_cascade
from ediffi.pipeline.conditioning import check_sources, encode_each, image_encoders, prompt_notices, rows
from ediffi.pipeline.generation import Generation, read_prompts
from ediffi.pipeline.options import SamplingOptions
from ediffi.pipeline.result import Images, OutputType, check_output_type, in_form
from ediffi.pipeline.samples import sample_prompts, sampled_stages, save_grid
from ediffi.pipeline.sampling import Progress, sample_stages
from ediffi.pipeline.stage import Sampling, Stage, Steering
from ediffi.pipeline.stage_lines import described
from ediffi.pipeline.step_bar import StepBar
from ediffi.pipeline.style import Style, Switch
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, Encoder, SamplerState

logger = logging.getLogger(__name__)


class Cascade:
    """Encoders and stages that turn prompts into images.

    Args:
        name: of the model.
        encoders: by source; those that read text encode the prompt, those that read images a style image.
        stages: the base stage first.
        source: the model folder that they were loaded from; `save_pretrained` needs it.

    Example:
        >>> cascade = Cascade.from_pretrained("toybox")
        >>> cascade("a red circle on a pink background", seed=7).save("circle.png")
    """

    def __init__(
        self, name: str, encoders: Mapping[str, Encoder], stages: Sequence[Stage], source: Path | None = None
    ) -> None:
        if not stages:
            raise ValueError("stages is empty; a cascade needs at least one")
        self.name, self.encoders, self.stages, self.source = name, dict(encoders), list(stages), source
        self._told: set[str] = set()  # the prompts that were looked at for what the model does not read

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        device: str | torch.device = "auto",
        expert_residency: Residency = "resident",
        *,
        revision: str | None = None,
        stages: Sequence[str] | None = None,
        dtype: str | torch.dtype = "float32",
        compile: bool = False,
        local_files_only: bool = False,
    ) -> "Cascade":
        """Load a cascade, from the Hub if need be.

        Args:
            model: the shipped "toybox"; a name of a list of models; a folder; or a model on the Hub: "ORG/REPO",
                "ORG/REPO@REVISION", "hf://ORG/REPO". A local folder ORG/REPO wins over the Hub.
            device: where its networks and encoders are; "auto" is a CUDA GPU if there is one, else the CPU.
            expert_residency: "resident" keeps all experts in memory, "stream" only the one in use; same images.
            revision: branch, tag or commit on the Hub.
            stages: the first stages, by name (["base"]); the files of the others are not downloaded.
            dtype: "bfloat16", or on a GPU "float16", halves the networks' memory and is faster on a GPU.
            compile: compile the networks at their first call, which takes minutes; see `to`.
            local_files_only: read only the Hub's cache, as with HF_HUB_OFFLINE=1.

        Raises:
            FileNotFoundError: the model or one of its files is missing.
            ValueError: a file is broken or changed, a part is not registered, experts do not partition the noise, or
                there is no such device, dtype or compiler here.
            OSError: the Hub cannot be reached, or refuses.
        """
        if expert_residency not in get_args(Residency):
            raise ValueError(f"expert_residency is {expert_residency!r}; it must be {' or '.join(get_args(Residency))}")
        place = find_device(device)
        number = find_dtype(dtype, place)
        if compile:
            check_compile(place)
        with out_of_memory(f"loading {str(model)!r}", "less is needed with dtype bfloat16 and expert_residency stream"):
            parts = load_cascade(model, place, expert_residency, revision, stages, number, local_files_only)
            cascade = cls(*parts)
            return cascade.compile() if compile else cascade

    def to(
        self,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        compile: bool = False,
    ) -> "Cascade":
        """Move the encoders and networks, and change the networks' dtype, in place; returns the cascade.

        Weights that were rounded stay rounded. With `compile`, each network is compiled at its first call, and again
        for other shapes (another batch size, with or without paint); on CUDA it is then replayed as one captured graph
        (`torch.compile(mode="reduce-overhead")`). Compiled networks stay compiled. ValueError as `from_pretrained`.
        """
        place = self.device if device is None else find_device(device)
        number = find_dtype(self.dtype if dtype is None else dtype, place)
        if compile:
            check_compile(place)
        self.encoders = {n: e.to(place) if isinstance(e, nn.Module) else e for n, e in self.encoders.items()}
        self.stages = [stage.to(place, number, compile) for stage in self.stages]
        return self

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the cascade as a model folder; unchanged weights byte for byte, changed ones in bfloat16.

        Raises:
            FileExistsError: the folder exists.
            ValueError: the cascade was not loaded from a folder, or that folder has changed since.
            OSError: a file cannot be written; nothing is left behind.
        """
        from ediffi.pipeline.trained_stage import save_again

        if self.source is None:
            raise ValueError(
                f"the cascade {self.name!r} was built in Python, so the registry names of its parts are not known"
            )
        return save_again(self.source, Path(folder), self.stages)

    def push_to_hub(self, repository: str, *, license: str, private: bool = False, revision: str | None = None) -> str:
        """Publish the cascade as "ORG/REPO", with a model card; returns its address. See `ediffi.hub.publish`."""
        from ediffi.hub.publish import PublicationOptions, publish

        options, paint = PublicationOptions(repository, license), partial(paint_samples, device=self.device)
        with TemporaryDirectory(prefix="ediffi-push-") as beside:
            return publish(self.save_pretrained(Path(beside) / "model"), options, paint, private, revision)

    def compile(self) -> "Cascade":
        """Compile the networks, in place, as `to(compile=True)` does; returns the cascade."""
        return self.to(compile=True)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        negative_prompt: str | Sequence[str | None] | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = 0,
        generator: Generator | Sequence[Generator] | None = None,
        first_index: int = 0,
        num_inference_steps: int | Sequence[int] | None = None,
        sigmas: Any = None,
        guidance_scale: Any = None,
        sampler: Any = None,
        guidance_interval: tuple[float, float] | None = None,
        dynamic_threshold: float | None = None,
        paint_weight: float | Sequence[float] | None = None,
        style: Any = None,
        paint: Any = (),
        switch: Switch | Sequence[Switch] | None = None,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        edit: Edit | Sequence[Edit] | None = None,
        low_res: Any = None,
        first_stage: str | None = None,
        noise: Tensor | Mapping[str, Tensor] | None = None,
        cond: Conditioning | None = None,
        negative_cond: Conditioning | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepEnd | None = None,
        progress: Progress | None = None,
        progress_bar: bool = True,
    ) -> Images:
        """Sample images of a prompt or several.

        `SamplingOptions` documents each option, and docs/sampling.md compares the arguments with those of diffusers.
        Images, masks and styles may be paths, Pillow images, arrays or tensors (`ediffi.io.image_input`).

        Args:
            generator: as in diffusers: a seed is drawn from it, one for each image from a list.
            style: a `Style`, or its image.
            paint: regions, or the path of a layout (`read_layout`).
            image: an image to start from, as `edit` with `mask_image` (white is repainted) and `strength` (0.8).
            noise: of the first stage, or by the name of the stage; `Images.noise` has that of a call.
            cond: what `encode` gives for the prompts, instead of encoding them; `negative_cond` likewise.
            output_type: "pil", "np" or "pt", see `OutputType`.
            callback_on_step_end: called as `callback(cascade, step, sigma, state)` after every step, with `stage`,
                `num_steps`, `x` (still noisy) and `denoised` in the mapping `state`. It may return a mapping: `x`
                replaces the state, and `stop=True` ends the sampling with the `denoised` images of this stage.
            progress: called after every step with the stage's name and the sampler's state.
            progress_bar: show one.

        Raises:
            ValueError: as `generate`; a value is of a wrong kind or out of range, or two arguments say the same.
        """
        options = SamplingOptions(
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            seed=seeds(seed, generator),
            first_index=first_index,
            num_inference_steps=num_inference_steps,
            sigmas=plain(sigmas),
            guidance_scale=plain(guidance_scale),
            sampler=sampler,
            guidance_interval=guidance_interval,
            dynamic_threshold=dynamic_threshold,
            paint_weight=paint_weight,
            style=styles(style),
            paint=layouts(paint),
            switch=switch,
            edit=edits(image, mask_image, strength, edit),
            low_res=low_resolution(low_res),
            first_stage=first_stage,
            noise=start_noise(noise, self.stages[0].name),
        )
        calls = [progress, None if callback_on_step_end is None else step_end(callback_on_step_end, self)]
        with StepBar(self.stages, self.plan(options), disable=not progress_bar) as bar:

            def each_step(stage: str, state: SamplerState) -> Tensor | None:
                bar(stage, state)
                changes = [call(stage, state) for call in calls if call is not None]
                return changes[-1] if changes else None

            return self.generate(prompt, options, each_step, cond, negative_cond=negative_cond, output_type=output_type)

    def generate(
        self,
        prompt: str | Sequence[str] | None,
        options: SamplingOptions = SamplingOptions(),  # noqa: B008  (frozen)
        progress: Progress | None = None,
        cond: Conditioning | None = None,
        *,
        negative_cond: Conditioning | None = None,
        output_type: OutputType = "pil",
    ) -> Images:
        """Sample images.

        Args:
            prompt: one prompt or several; `(words:1.3)` weights words; None with `cond`.
            options: of all prompts.
            progress: called after every step with the stage's name and the sampler's state.
            cond: what `encode` gives for each prompt, or for the prompt of each image, if it is known already.
            negative_cond: likewise, instead of the negative prompt.
            output_type: the form of the images.

        Raises:
            ValueError: a prompt is empty or too long, a sampler or stage unknown, a painted phrase not in the prompt,
                or the model lacks the encoder or stage that an option needs; sampling made numbers that are not finite.
        """
        check_output_type(output_type)
        call = Generation(read_prompts(prompt, cond), options, self.stages, self.encode)
        plan, device = self.plan(options), self.device
        call.check_paint(plan)
        self._warn_once(call.texts(with_prompts=cond is None))
        cond = call.cond() if cond is None else rows(cond, len(call.prompts), call.number).to(device)
        steering, randomness = call.steering(negative_cond), options.randomness(call.indices)
        entry, edit = call.entry(), call.edits()
        stages = self.sample(cond, randomness, plan, steering=steering, edit=edit, entry=entry, progress=progress)
        known = {"model": self.name, **self.identity}
        settings = {**known, **call.settings(plan, steering, isinstance(prompt, str), self.precision)}
        images = in_form(list(stages.values())[-1], output_type)
        return Images(images, stages, settings, lambda: call.noise(list(stages), randomness), options.inputs)

    def sample(
        self,
        cond: Conditioning,
        randomness: Philox,
        plan: Sequence[Sampling] | None = None,
        *,
        steering: Steering | Sequence[Steering] = Steering(),  # noqa: B008  (frozen)
        edit: Edit | Sequence[Edit] | None = None,
        entry: tuple[int, Float[Tensor, "b 3 h w"] | None] = (0, None),
        progress: Progress | None = None,
    ) -> dict[str, Float[Tensor, "b 3 _ _"]]:
        """Run the stages on a conditioning.

        Args:
            cond: of a batch.
            randomness: a seed, and the index of each image: an image does not depend on the batch it is sampled in.
            plan: each stage's settings; the model's own by default.
            steering: what else steers all stages, or each; switching in the base stage only.
            edit: an image to start from, or one for each image.
            entry: index of the first stage to run, and the images that it enlarges.
            progress: called after every step.

        Returns:
            Images in [-1, 1] after each stage that ran, by its name.
        """
        plan = self.plan() if plan is None else plan
        edits = [] if edit is None else [edit] if isinstance(edit, Edit) else edit
        return sample_stages(
            self.stages, cond, randomness, plan, steering=steering, edits=edits, entry=entry, progress=progress
        )

    def plan(self, options: SamplingOptions = SamplingOptions()) -> list[Sampling]:  # noqa: B008  (frozen)
        """The settings of each stage: the model's own, except for what the options set; raises as `generate`."""
        return options.plan([stage.sampling for stage in self.stages])

    def encode(
        self,
        prompts: Sequence[str],
        style: Style | Sequence[Style | None] | None = None,
        regions: Sequence[Region] | Sequence[Sequence[Region]] = (),
    ) -> Conditioning:
        """The conditioning of prompts, of a style image and of painted regions, for all prompts or one for each; raises
        as `encode_prompts` and `check_sources`."""
        check_sources(self.encoders, self.stages, bool(any(style) if isinstance(style, Sequence) else style))
        return encode_each(self.encoders, self.device, prompts, style, regions)

    def _warn_once(self, texts: Sequence[str]) -> None:
        """Log what of texts the model does not read, each text once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._told]
        self._told.update(new)
        for notice in self.prompt_notices(*new):
            logger.warning("%s", notice)

    def up_to(self, stage: str) -> "Cascade":
        """The cascade without the stages after this one; ValueError if there is no such stage."""
        names = [one.name for one in self.stages]
        if stage not in names:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(names)}")
        return Cascade(self.name, self.encoders, self.stages[: names.index(stage) + 1], self.source)

    @property
    def image_encoders(self) -> dict[str, Encoder]:
        """The encoders that read a style image, by source; none if the model takes no style image."""
        return image_encoders(self.encoders)

    def prompt_notices(self, *prompts: str) -> list[str]:
        """What of prompts the model does not read: unknown words, and the ends of prompts that are too long."""
        return prompt_notices(self.name, self.encoders, prompts)

    def __repr__(self) -> str:
        """Stages, experts, encoders, sizes and device, a line each."""
        head = f"Cascade {self.name!r} on {self.device}, {self.precision['dtype']}"
        return "\n".join([head, *described(self.stages, self.encoders)])

    @property
    def dtype(self) -> torch.dtype:
        """The format that the networks of the first stage run in."""
        return self.stages[0].dtype

    @property
    def precision(self) -> dict[str, Any]:
        """The `dtype` and `compile` that the images depend on, as JSON values."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "compile": self.stages[0].compiled}

    @cached_property
    def identity(self) -> dict[str, str]:
        """The sha256 of the `config.json` that it was loaded from, which has those of all weights; empty for none."""
        return {} if self.source is None else {"model_sha256": sha256(self.source / CONFIG)}

    @property
    def device(self) -> torch.device:
        """The device of the first stage."""
        return next(self.stages[0].denoiser.parameters()).device


def paint_samples(folder: Path, output: Path, device: str | torch.device = "auto") -> list[str]:
    """Sample the grid of a model card at seed 0 into a PNG file; returns its prompts, none if no encoder reads text."""
    cascade = Cascade.from_pretrained(folder, device, "stream", stages=sampled_stages(folder))
    if prompts := sample_prompts(cascade.encoders):
        made = cascade(prompts)
        save_grid(made.images, output, made.settings)
    return prompts
