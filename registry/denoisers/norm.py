"""Group norm, scale-shift and SiLU in one step that keeps the dtype and the memory layout of its input.

torch's own group norm on CUDA has no kernel for channels-last, and autocast runs it in float32: it reads and writes 44
bytes a number in bfloat16 where 6 are enough.
"""

import importlib.util

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

HAS_TRITON = importlib.util.find_spec("triton") is not None


class GroupNorm(nn.GroupNorm):
    """`silu((1 + scale)·norm(x) + shift)` with statistics in float32; scale, shift and SiLU are optional.

    On a CPU these are torch's operations, on CUDA the kernels of `group_norm_kernels`. Only a compiled network that
    samples gets a formula that the compiler fuses: it spreads the pixels of few large images over the whole GPU. In
    training it would launch seven kernels for a norm where ours are three (benchmarks/compiled_launches.py).
    """

    def forward(
        self, x: Float[Tensor, "b c h w"], scale_shift: Float[Tensor, "b 2*c"] | None = None, silu: bool = False
    ) -> Float[Tensor, "b c h w"]:
        """Features of the same shape, dtype and memory layout."""
        arguments = x, self.num_groups, self.weight, self.bias, scale_shift, self.eps, silu
        if x.device.type == "cpu":
            return apart(*arguments)
        samples = torch.compiler.is_compiling() and not torch.is_grad_enabled()
        if samples or x.dtype == torch.float64 or not HAS_TRITON:
            return composed(*arguments)
        from ediffi.registry.denoisers.group_norm_kernels import group_norm

        return group_norm(*arguments)[0]


def apart(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, scale_shift: Tensor | None, eps: float, silu: bool
) -> Tensor:
    """One operation of torch after the other."""
    h = F.group_norm(x, groups, weight, bias, eps)
    if scale_shift is not None:
        scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift  # 1 + scale: no change at scale 0
    return F.silu(h) if silu else h


def composed(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, scale_shift: Tensor | None, eps: float, silu: bool
) -> Tensor:
    """The formula, on views that need no copy in channels-last, with everything between x and the result in float32."""
    precise = torch.promote_types(x.dtype, torch.float32)
    grouped = x.to(precise).unflatten(1, (groups, -1))
    variance, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0, keepdim=True)
    h = ((grouped - mean) * (variance + eps).rsqrt()).flatten(1, 2)
    h = h * weight.to(precise)[:, None, None] + bias.to(precise)[:, None, None]
    if scale_shift is not None:
        scale, shift = scale_shift.to(precise)[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return (F.silu(h) if silu else h).to(x.dtype)
