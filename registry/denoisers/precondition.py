"""EDM preconditioning: a raw network becomes a denoiser (Karras et al. 2022, table 1)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ediffi.registry.types import Conditioning


def upsample(low_res: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c H W"]:
    """Resize low-resolution images to `size`, (height, width), bicubic."""
    return F.interpolate(low_res, size=size, mode="bicubic", align_corners=False)


Scaling = Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]
"""A column of EDM's table 1, around the raw network: sigma [b] -> c_skip, c_out, c_in, c_noise, each [b]."""


def edm(sigma: Float[Tensor, " b"], sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`c_skip = d²/(s² + d²)`, `c_out = s·d/sqrt(s² + d²)`, `c_in = 1/sqrt(s² + d²)`, `c_noise = ln(s)/4`.

    s = `sigma`; d = `sigma_data`, the standard deviation of the clean data.
    """
    variance = sigma.square() + sigma_data**2
    return sigma_data**2 / variance, sigma * sigma_data / variance.sqrt(), 1 / variance.sqrt(), sigma.log() / 4


class Preconditioned(nn.Module):
    """`D(x; sigma) = c_skip·x + c_out·F(c_in·x; c_noise)`: unit-variance inputs and targets at every noise level.

    With `residual`, `D(x) = m + D'(x - m)` for the upsampled low-resolution image `m`: the network predicts only what
    bicubic upsampling misses, and `sigma_data` is the deviation of that residual. Our choice for small super-resolution
    networks; the paper does not say, and its recipes leave it off.

    Args:
        network: `F(x [b,3,h,w], c_noise [b], cond) -> [b,3,h,w]`.
        sigma_data: standard deviation of the clean data (or of the residual); 0.5 in EDM for photographs.
        residual: predict the residual over the upsampled `cond.low_res`.
        scaling: another column of the table than EDM's own, for networks trained elsewhere.
    """

    def __init__(
        self, network: nn.Module, sigma_data: float = 0.5, residual: bool = False, scaling: Scaling | None = None
    ) -> None:
        super().__init__()
        if not isinstance(sigma_data, float | int) or not 0 < sigma_data <= 1e6:
            raise ValueError(f"sigma_data must be positive and at most 1e6, got {sigma_data}")
        self.network = network
        self.sigma_data = sigma_data
        self.residual = residual
        self.scaling = scaling or partial(edm, sigma_data=sigma_data)
        self.made_by: tuple[str, dict[str, Any]] | None = None
        """Registered name and arguments, where a registered factory has made it."""

    def forward(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"], cond: Conditioning
    ) -> Float[Tensor, "b 3 h w"]:
        """Denoised images [b, 3, h, w] for noisy `x` at noise levels `sigma` [b]; scaled in float32 or better."""
        precise = torch.promote_types(x.dtype, torch.float32)
        # float32: in bfloat16 the noise levels of neighbouring steps round to one number
        *scales, c_noise = self.scaling(sigma.to(precise))
        c_skip, c_out, c_in = (scale.view(-1, 1, 1, 1) for scale in scales)
        mean = None
        if self.residual:
            if cond.low_res is None:
                raise ValueError("a residual denoiser needs cond.low_res, and it is None")
            mean = upsample(cond.low_res, (x.shape[-2], x.shape[-1]))
        centred = x if mean is None else x - mean
        denoised = c_skip * centred + c_out * self.network(c_in * centred, c_noise, cond).to(precise)
        return denoised if mean is None else mean + denoised

    def loss_weight(self, sigma: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """`lambda(sigma) = 1/c_out²`, which makes the loss of an untrained network 1 at every noise level."""
        return self.scaling(sigma)[1].square().reciprocal()
