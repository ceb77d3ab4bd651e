"""The cascade: a prompt becomes an image through a base stage and super-resolution stages.

Longer than other files: it is one class, the way into the package, and a quarter of it is documentation.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ediffi.diffusion.editing import Edit
from ediffi.diffusion.experts import expert_tree
from ediffi.diffusion.layout import Region
from ediffi.io.devices import check_compile, find_device, find_dtype, out_of_memory
from ediffi.io.images import to_images
from ediffi.pipeline.checkpoint import Residency, load_cascade
from ediffi.pipeline.conditioning import encode_prompts, image_encoders, text_encoders, unknown_words
from ediffi.pipeline.options import SamplingOptions, Style, Switch
from ediffi.pipeline.prompt import parse
from ediffi.pipeline.samples import sample_prompts, sampled_stages, save_grid
from ediffi.pipeline.stage import Sampling, Stage, Steering
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, Encoder, SamplerState, TextEncoder

logger = logging.getLogger(__name__)

Progress = Callable[[str, SamplerState], None]
"""Called after every step with the stage's name and the sampler's state."""


@dataclass(frozen=True)
class Images:
    """The result of a generation."""

    images: list[Image.Image]  # RGB, `num_images_per_prompt` for each prompt, those of one prompt together
    stages: Mapping[str, Float[Tensor, "b 3 h w"]]  # in [-1, 1] after each stage that ran, by its name
    settings: Mapping[str, Any]  # JSON values that repeat the images: prompts, seed, each stage's sampling


class Cascade:
    """Encoders and stages that turn prompts into images.

    Args:
        name: of the model.
        encoders: by source; those that read text encode the prompt, those that read images a style image.
        stages: the base stage first.
        source: the model folder that they were loaded from; `save_pretrained` needs it.

    Example:
        >>> cascade = Cascade.from_pretrained("toybox")
        >>> cascade("a red circle on a pink background", seed=7).images[0].save("circle.png")
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
            return cls(*parts).to(place, compile=compile)

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

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        seed: int = 0,
        first_index: int = 0,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        sampler: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        dynamic_threshold: float | None = None,
        paint_weight: float | Sequence[float] | None = None,
        style: Style | None = None,
        paint: Sequence[Region] = (),
        switch: Switch | None = None,
        edit: Edit | None = None,
        low_res: Image.Image | None = None,
        first_stage: str | None = None,
        progress: Progress | None = None,
    ) -> Images:
        """Sample images of a prompt or several; `SamplingOptions` documents each option. See `generate`."""
        options = SamplingOptions(
            negative_prompt=negative_prompt,
            num_images_per_prompt=num_images_per_prompt,
            seed=seed,
            first_index=first_index,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            guidance_interval=guidance_interval,
            dynamic_threshold=dynamic_threshold,
            paint_weight=paint_weight,
            style=style,
            paint=tuple(paint),
            switch=switch,
            edit=edit,
            low_res=low_res,
            first_stage=first_stage,
        )
        return self.generate(prompt, options, progress)

    def generate(
        self,
        prompt: str | Sequence[str],
        options: SamplingOptions = SamplingOptions(),  # noqa: B008  (frozen)
        progress: Progress | None = None,
        cond: Conditioning | None = None,
    ) -> Images:
        """Sample images.

        Args:
            prompt: one prompt or several; `(words:1.3)` weights words.
            options: the same for all prompts.
            progress: called after every step with the stage's name and the sampler's state.
            cond: what `encode` gives for the prompt of each image, if it is known already.

        Raises:
            ValueError: a prompt is empty or too long, a sampler or stage unknown, a painted phrase not in the prompt,
                or the model lacks the encoder or stage that an option needs.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        plan = self.plan(options)
        texts = [text for text in prompts for _ in range(options.num_images_per_prompt)]
        if cond is None:
            others = options.negative_prompt, options.switch and options.switch.prompt
            self._warn_of_unread([*prompts, *filter(None, others)])
        cond = self.encode(texts, options.style, options.paint) if cond is None else cond.to(self.device)
        if options.paint and not any(sampling.paint_weight for sampling in plan):
            raise ValueError("paint has no effect, since paint_weight is 0 in every stage; give one above 0")
        negative, style, switch = options.negative_prompt, options.style, options.switch
        steering = Steering(
            None if negative is None else self.encode([negative] * len(texts)),
            1.0 if style is None else style.scale,
            None if switch is None else self.encode([switch.prompt] * len(texts), style),
            1.0 if switch is None else switch.at,
        )
        stages = self.sample(
            cond,
            Philox(options.seed, range(options.first_index, options.first_index + len(texts))),
            plan,
            steering=steering,
            edit=options.edit,
            entry=options.entry(self.stages, len(texts), self.device),
            progress=progress,
        )
        settings = {
            "model": self.name,
            "prompt": prompts[0] if isinstance(prompt, str) else prompts,
            "num_images_per_prompt": options.num_images_per_prompt,
            "first_index": options.first_index,
            "seed": options.seed,
            "negative_prompt": options.negative_prompt,
            **self.precision,
            "stages": {s.name: dataclasses.asdict(p) | {"nfe": p.nfe} for s, p in zip(self.stages, plan, strict=True)},
            **options.described(),
        }
        return Images(to_images(stages[self.stages[-1].name]), stages, settings)

    def sample(
        self,
        cond: Conditioning,
        randomness: Philox,
        plan: Sequence[Sampling] | None = None,
        *,
        steering: Steering = Steering(),  # noqa: B008  (frozen)
        edit: Edit | None = None,
        entry: tuple[int, Float[Tensor, "b 3 h w"] | None] = (0, None),
        progress: Progress | None = None,
    ) -> dict[str, Float[Tensor, "b 3 _ _"]]:
        """Run the stages on a conditioning.

        Args:
            cond: of a batch.
            randomness: a seed, and the index of each image: an image does not depend on the batch it is sampled in.
            plan: each stage's settings; the model's own by default.
            steering: negative, style and switching; switching in the base stage only.
            edit: an image to start from.
            entry: index of the first stage to run, and the images that it enlarges.
            progress: called after every step.

        Returns:
            Images in [-1, 1] after each stage, by its name.
        """
        plan = self.plan() if plan is None else plan
        # Super-resolution stages only sharpen, so they read the prompt that had the larger share of the base stage.
        later = cond if steering.after is None or steering.switch_at >= 0.5 else steering.after
        first, low_res = entry
        done: dict[str, Tensor] = {}
        # An edit enters every stage: super-resolution alone would change the pixels that a mask keeps.
        for index, (stage, sampling) in list(enumerate(zip(self.stages, plan, strict=True)))[first:]:
            with out_of_memory(f"stage {stage.name!r}", self._memory_advice(len(randomness))):
                low_res = done[stage.name] = stage(
                    cond if index == 0 else later,
                    randomness,
                    low_res=low_res,
                    source=None if edit is None else edit.at(stage.resolution, len(randomness), self.device),
                    steering=steering if index == 0 else dataclasses.replace(steering, after=None),
                    sampling=sampling,
                    callback=None if progress is None else partial(progress, stage.name),
                )
        return done

    def _memory_advice(self, batch: int) -> str:
        """The options that would lower the memory of a stage, and are not in use."""
        trees = [tree for stage in self.stages if (tree := expert_tree(stage.denoiser)) is not None]
        resident = any(len(tree.denoisers) > 1 and isinstance(tree.denoisers, nn.ModuleList) for tree in trees)
        options = ["dtype bfloat16"] * (self.dtype == torch.float32) + ["expert_residency stream"] * resident
        options += [f"a batch of fewer than {batch} images"] * (batch > 1)
        return f"less is needed with {' or '.join(options)}" if options else "no option lowers it further"

    def plan(self, options: SamplingOptions = SamplingOptions()) -> list[Sampling]:  # noqa: B008  (frozen)
        """The settings of each stage: the model's own, except for what the options set; raises as `generate`."""
        return options.plan([stage.sampling for stage in self.stages])

    def encode(
        self, prompts: Sequence[str], style: Style | None = None, regions: Sequence[Region] = ()
    ) -> Conditioning:
        """The conditioning of prompts, of a style image and of painted regions; raises as `encode_prompts`."""
        each = list(dict.fromkeys(prompts))  # an image each of one prompt is that prompt once
        with out_of_memory("an encoder", f"less is needed with a batch of fewer than {len(each)} prompts"):
            cond = encode_prompts(self.encoders, each, None if style is None else style.image, regions).to(self.device)
        return cond if each == list(prompts) else cond[[each.index(prompt) for prompt in prompts]]

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
        texts, notices = [parse(prompt).text for prompt in prompts], []
        if unknown := list(dict.fromkeys(word for text in texts for word in unknown_words(self.encoders, text))):
            notices.append(f"ignored, not in the vocabulary of {self.name}: {', '.join(unknown)}")
        for name, encoder in text_encoders(self.encoders).items():
            if isinstance(encoder, TextEncoder):
                ends = filter(None, map(encoder.truncated_text, texts))
                notices += [f"too long for {name}, which does not read: {end!r}" for end in ends]
        return notices

    def _warn_of_unread(self, prompts: Sequence[str]) -> None:
        """Log what of prompts the model does not read, each prompt once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._told]
        self._told.update(new)
        for notice in self.prompt_notices(*new):
            logger.warning("%s", notice)

    @property
    def dtype(self) -> torch.dtype:
        """The format that the networks of the first stage run in."""
        return self.stages[0].dtype

    @property
    def precision(self) -> dict[str, Any]:
        """The `dtype` and `compile` that the images depend on, as JSON values."""
        return {"dtype": str(self.dtype).removeprefix("torch."), "compile": self.stages[0].compiled}

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
