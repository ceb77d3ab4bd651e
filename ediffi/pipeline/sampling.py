"""The stages of a cascade one after the other: a conditioning becomes images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.diffusion.editing import Edit, EditSource
from ediffi.diffusion.experts import expert_tree
from ediffi.io.devices import out_of_memory
from ediffi.pipeline.stage import Sampling, Stage, Steering
from ediffi.registry.random import Philox
from ediffi.registry.types import Conditioning, SamplerState

Progress = Callable[[str, SamplerState], Tensor | None]
"""Called after every step with the stage's name and the sampler's state; a tensor that it returns becomes the state. It
may raise `StopSampling`."""


class StopSampling(Exception):
    """Ends the sampling; `denoised` is the result of the stage, and later stages do not run."""

    def __init__(self, denoised: Float[Tensor, "b 3 h w"]) -> None:
        super().__init__("the callback stopped the sampling")
        self.denoised = denoised


def sample_stages(
    stages: Sequence[Stage],
    cond: Conditioning,
    randomness: Philox,
    plan: Sequence[Sampling],
    *,
    steering: Steering | Sequence[Steering] = Steering(),  # noqa: B008  (frozen)
    edits: Sequence[Edit] = (),
    entry: tuple[int, Float[Tensor, "b 3 h w"] | None] = (0, None),
    progress: Progress | None = None,
) -> dict[str, Float[Tensor, "b 3 _ _"]]:
    """Run the stages of a cascade on a conditioning; see `Cascade.sample`."""
    each = [steering] * len(stages) if isinstance(steering, Steering) else list(steering)
    # Super-resolution stages only sharpen, so they read the prompt that had the larger share of the base stage.
    later = cond if each[0].after is None or each[0].switch_at >= 0.5 else each[0].after
    first, low_res = entry
    device = next(stages[0].denoiser.parameters()).device
    done: dict[str, Tensor] = {}
    # An edit enters every stage: super-resolution alone would change the pixels that a mask keeps.
    for index, (stage, sampling) in list(enumerate(zip(stages, plan, strict=True)))[first:]:
        try:
            with out_of_memory(f"stage {stage.name!r}", _memory_advice(stages, len(randomness))):
                low_res = done[stage.name] = stage(
                    cond if index == 0 else later,
                    randomness,
                    low_res=low_res,
                    source=_edit_source(edits, stage.resolution, len(randomness), device),
                    steering=each[index] if index == 0 else replace(each[index], after=None),
                    sampling=sampling,
                    callback=None if progress is None else partial(progress, stage.name),
                )
        except StopSampling as stop:
            done[stage.name] = stop.denoised.float().clamp(-1, 1)
            break
    return done


def _edit_source(edits: Sequence[Edit], resolution: int, batch: int, device: torch.device) -> EditSource | None:
    """What the images of a batch start from: one edit for all, or one for each."""
    if len(edits) < 2:
        return edits[0].at(resolution, batch, device) if edits else None
    sources = [edit.at(resolution, 1, device) for edit in edits]
    images = torch.cat([source.images for source in sources])
    masks = [torch.ones_like(images[:1, :1]) if source.mask is None else source.mask for source in sources]
    masked = any(source.mask is not None for source in sources)
    return EditSource(images, edits[0].strength, torch.cat(masks) if masked else None)


def _memory_advice(stages: Sequence[Stage], batch: int) -> str:
    """The options that would lower the memory of a stage, and are not in use."""
    trees = [tree for stage in stages if (tree := expert_tree(stage.denoiser)) is not None]
    resident = any(len(tree.denoisers) > 1 and isinstance(tree.denoisers, nn.ModuleList) for tree in trees)
    options = ["dtype bfloat16"] * (stages[0].dtype == torch.float32) + ["expert_residency stream"] * resident
    options += [f"a batch of fewer than {batch} images (batch_size, or num_images of one prompt)"] * (batch > 1)
    return f"less is needed with {' or '.join(options)}" if options else "no option lowers it further"
