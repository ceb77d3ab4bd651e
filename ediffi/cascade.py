"""The cascade: a prompt becomes a picture through a base stage and super-resolution stages."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ediffi import folder
from ediffi.data.picture import to_images
from ediffi.manifest import Residency
from ediffi.sampling import Sampling, Stage
from registry.random import generators
from registry.types import Callback, Conditioning, Embedding, Encoder, SamplerState

MAX_PROMPT = 5000
"""Longest prompt in characters; far beyond any encoder's length, so a longer one is a mistake."""

Progress = Callable[[str, SamplerState], None]
"""Called after every step with the stage's name."""


@dataclass(frozen=True)
class Pictures:
    """What a cascade returns.

    Attributes:
        images: RGB pictures, `num_images_per_prompt` for each prompt, neighbours together.
        stages: [b, 3, h, w] in [-1, 1] after each stage, by its name.
        settings: what to repeat them with: prompts, seed and each stage's sampling; plain JSON values.
    """

    images: list[Image.Image]
    stages: Mapping[str, Float[Tensor, "b 3 h w"]]
    settings: Mapping[str, Any]


class Cascade:
    """Encoders and stages that turn prompts into pictures.

    Args:
        name: of the model.
        encoders: by source; those called "t5" or "clip_text" read the prompt.
        stages: the base stage first.

    Raises:
        ValueError: there is no stage.

    Example:
        >>> cascade = Cascade.from_pretrained("toybox")
        >>> cascade("a red circle on a pink background", seed=7).images[0].save("circle.png")
    """

    def __init__(self, name: str, encoders: Mapping[str, Encoder], stages: Sequence[Stage]) -> None:
        if not stages:
            raise ValueError("a cascade needs at least one stage")
        self.name, self.encoders, self.stages = name, dict(encoders), list(stages)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, device: str | torch.device = "cpu", expert_residency: Residency = "resident"
    ) -> "Cascade":
        """Load a cascade; raises as `ediffi.folder.load` does.

        Args:
            model: "toybox", the one that ships, or a folder.
            device: where its networks stand.
            expert_residency: "resident" keeps all experts in memory, "stream" the one in use; same pictures.
        """
        return cls(*folder.load(model, device, expert_residency))

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | None = None,
        num_images_per_prompt: int = 1,
        seed: int = 0,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        sampler: str | None = None,
        progress: Progress | None = None,
    ) -> Pictures:
        """Sample pictures.

        Args:
            prompt: one prompt or several.
            negative_prompt: guidance moves away from it instead of from the null condition.
            num_images_per_prompt: pictures for each prompt.
            seed: picture k of the call is a function of (seed, k), whatever the batch.
            num_inference_steps: of the base stage, or one number per stage; the model's own by default.
            guidance_scale: w of `uncond + w·(cond - uncond)`, likewise.
            sampler: a sampler or preset ("paper-steps", "paper-nfe") for all stages; the model's own by default.
            progress: called after every step with the stage's name and the sampler's state.

        Raises:
            ValueError: a prompt is empty or too long, a number out of range, or the sampler unknown.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        for text in prompts if negative_prompt is None else [*prompts, negative_prompt]:
            check_prompt(text)
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt must be at least 1, got {num_images_per_prompt}")
        plan = self.plan(num_inference_steps, guidance_scale, sampler)
        texts = [text for text in prompts for _ in range(num_images_per_prompt)]
        cond = self.encode(texts)
        negative = None if negative_prompt is None else self.encode([negative_prompt] * len(texts))
        randomness = generators(seed, range(len(texts)))

        pictures: dict[str, Tensor] = {}
        for stage, sampling in zip(self.stages, plan, strict=True):
            pictures[stage.name] = stage(
                cond,
                randomness,
                low_res=next(reversed(pictures.values()), None),
                negative=negative,
                sampling=sampling,
                callback=_named(progress, stage.name),
            )
        settings = {
            "model": self.name,
            "prompt": prompts[0] if isinstance(prompt, str) else prompts,
            "negative_prompt": negative_prompt,
            "num_images_per_prompt": num_images_per_prompt,
            "seed": seed,
            "stages": {s.name: dataclasses.asdict(p) | {"nfe": p.nfe} for s, p in zip(self.stages, plan, strict=True)},
        }
        return Pictures(to_images(pictures[self.stages[-1].name]), pictures, settings)

    def plan(
        self,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        sampler: str | None = None,
    ) -> list[Sampling]:
        """The settings of each stage, with what is given in place of the model's own; arguments as in the call."""
        plan = [stage.sampling for stage in self.stages]
        if sampler is not None:
            plan = [s.with_sampler(sampler, k > 0) for k, s in enumerate(plan)]
        changes: dict[str, Any] = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        for name, value in changes.items():
            if value is not None:
                values = list(value) if isinstance(value, Sequence) else [value]
                if len(values) not in (1, len(plan)):
                    raise ValueError(f"{name} has {len(values)} values; give 1, or {len(plan)}, one for each stage")
                changed = [dataclasses.replace(s, **{name: v}) for s, v in zip(plan, values, strict=False)]
                plan = changed + plan[len(changed) :]
        return plan

    def encode(self, texts: Sequence[str]) -> Conditioning:
        """The conditioning of the texts, from every encoder that reads text."""
        device = self.device
        sources: dict[str, Embedding] = {}
        with torch.inference_mode():
            for name, encoder in self.encoders.items():
                if hasattr(encoder, "tokenize"):
                    sources[name] = encoder(texts)
        return Conditioning(sources).to(device)

    def unknown_words(self, text: str) -> list[str]:
        """The words of a prompt that no encoder knows, in order; only encoders that can tell are asked."""
        lists = [encoder.unknown_words(text) for encoder in self.encoders.values() if hasattr(encoder, "unknown_words")]
        return [word for word in (lists[0] if lists else []) if all(word in words for words in lists)]

    @property
    def device(self) -> torch.device:
        """Where the first stage stands."""
        return next(self.stages[0].denoiser.parameters()).device


def check_prompt(text: str) -> None:
    """Refuse what cannot be a prompt.

    Raises:
        ValueError: it is empty or longer than `MAX_PROMPT` characters.
    """
    if not text.strip():
        raise ValueError("the prompt is empty; say what the picture should show")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(text)} characters; at most {MAX_PROMPT} are allowed")


def _named(progress: Progress | None, stage: str) -> Callback | None:
    return None if progress is None else lambda state: progress(stage, state)
