"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) on a denoiser, by peft."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter on every linear and convolution layer: `W + alpha/rank·B·A`; only A and B are trained.

    Args:
        rank: of the update; 0 trains all weights, without an adapter.
        alpha: scale of the update, in multiples of 1/rank; positive.
    """

    rank: int = 0
    alpha: float = 16.0

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError(f"rank of the low-rank adapter must be at least 0 (no adapter), got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"alpha of the low-rank adapter must be positive, got {self.alpha}")


def add(denoiser: nn.Module, lora: Lora) -> None:
    """Put adapters on a denoiser, in place, and freeze everything else; its output does not change yet, as B is 0."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ModuleNotFoundError as error:
        raise ValueError("low-rank adapters need peft: pip install 'ediffi[lora]'") from error
    layers = [name for name, layer in denoiser.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=layers), denoiser)  # type: ignore[arg-type]


@torch.no_grad()
def merged(denoiser: nn.Module, lora: Lora, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a denoiser with its adapters merged into them.

    `denoiser` is the architecture without adapters, changed in place; `weights` the state with adapters.
    """
    from peft.tuners.lora import LoraLayer

    names = list(denoiser.state_dict())
    add(denoiser, lora)
    denoiser.load_state_dict(weights)
    for layer in denoiser.modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
    state = {name.replace(".base_layer.", "."): tensor for name, tensor in denoiser.state_dict().items()}
    return {name: state[name] for name in names}
