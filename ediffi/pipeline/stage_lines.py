"""What a cascade is made of, as lines of text."""

from collections.abc import Mapping, Sequence

from torch import nn

from ediffi.diffusion.experts import expert_tree
from ediffi.pipeline.stage import Stage
from ediffi.registry.types import Encoder


def described(stages: Sequence[Stage], encoders: Mapping[str, Encoder]) -> list[str]:
    """A line for each stage and each encoder: size, experts, sampler."""
    width = max(len(name) for name in [*encoders, *(stage.name for stage in stages)])
    lines = []
    for stage in stages:
        tree, sampling = expert_tree(stage.denoiser), stage.sampling
        experts = f"{len(tree.experts)} expert{'s' * (len(tree.experts) > 1)}, " if tree else ""
        steps = f"{sampling.sampler} {sampling.num_inference_steps} steps, guidance {sampling.guidance_scale:g}"
        size = f"{stage.resolution}x{stage.resolution}, {experts}{_millions(stage.denoiser)}"
        lines.append(f"  {stage.name:<{width}}  {size}, {steps}")
    for name, encoder in encoders.items():
        size = f", {_millions(encoder)}" if isinstance(encoder, nn.Module) else ""
        lines.append(f"  {name:<{width}}  {type(encoder).__name__}{size}")
    return lines


def _millions(module: nn.Module) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f}M parameters"
