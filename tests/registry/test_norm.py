"""`GroupNorm`: its formula and its kernels against torch's operations in float64."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ediffi.registry.denoisers.norm import GroupNorm, apart, composed

CASES = {  # batch, channels, groups, height, width; scale-shift; SiLU; memory format
    "scale-shift and SiLU": ((2, 12, 3, 5, 7), True, True, torch.channels_last),
    "SiLU, one group": ((2, 16, 1, 8, 8), False, True, torch.channels_last),
    "many tiles": ((1, 8, 4, 33, 33), True, True, torch.channels_last),
    "large image": ((1, 8, 4, 128, 129), True, True, torch.channels_last),
    "norm alone, channels first": ((1, 40, 4, 3, 3), False, False, torch.contiguous_format),
}


def check(norm: Callable[..., Tensor], case: str, dtype: torch.dtype) -> None:
    """Result and gradients of `norm` against `apart` in float64; numbers whose mean is 15 deviations."""
    (b, c, groups, h, w), shifted, silu, layout = CASES[case]
    torch.manual_seed(0)
    x = (2 * torch.randn(b, c, h, w) + 30).to(dtype).contiguous(memory_format=layout)
    given = [x, torch.randn(c), torch.randn(c), torch.randn(b, 2 * c).to(dtype) if shifted else None]
    gradient = torch.randn(b, c, h, w).to(dtype)

    def run(norm: Callable[..., Tensor], exact: bool) -> list[Tensor]:
        leaves: list[Any] = [
            None if t is None else (t.double() if exact else t).detach().clone().requires_grad_() for t in given
        ]
        x, weight, bias, shifts = leaves
        if shifts is not None:  # some columns of a wider tensor, as in a network
            shifts = torch.cat([shifts, shifts], dim=1)[:, : shifts.shape[1]]
        out = norm(x, groups, weight, bias, shifts, 1e-5, silu)
        out.backward(gradient.to(out.dtype))
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]

    results = run(norm, exact=False)
    for result, exact in zip(results, run(apart, exact=True), strict=True):
        tolerance = 1e-5 if result.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(result.double(), exact, atol=tolerance * exact.abs().max().item(), rtol=0)
    assert results[0].dtype == results[1].dtype == dtype
    assert layout != torch.channels_last or results[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", CASES)
def test_the_formula_for_the_compiler_is_torch_s(case: str, dtype: torch.dtype) -> None:
    check(composed, case, dtype)


def test_the_kernels_are_torch_s_group_norm() -> None:
    """Triton's interpreter runs the kernels of CUDA without a GPU; it must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["float32", "bfloat16"] * len(CASES)


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "pixels"), [(256, 64**2), (128, 256**2), (768, 16**2)])
def test_the_kernels_compile_for_a_gpu(channels: int, pixels: int) -> None:
    """Triton's compiler needs no GPU. 24 channels a group leave lanes idle, 8 do not."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from ediffi.registry.denoisers import group_norm_kernels as kernels

    tiles = kernels.tiling(channels, 32, item=2, pixels=pixels)
    options = {"num_warps": tiles.pop("num_warps")}
    constants = {"SHIFTED": True, "SILU": True, "SIZE": channels // 32, **tiles}
    images = dict.fromkeys(("x", "y", "dx", "dy", "scale_shift", "d_scale_shift"), "*bf16")
    sizes = dict.fromkeys(("stride", "pixels", "channels", "groups"), "i32") | {"eps": "fp32"}
    for kernel in (kernels._forward, kernels._backward):
        types = {n: "constexpr" if n in constants else (images | sizes).get(n, "*fp32") for n in kernel.arg_names}
        known = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=kernel, signature=types, constexprs=known)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.metadata.shared < 48_000


def test_a_norm_on_a_cpu_is_torch_s_to_the_bit() -> None:
    norm, plain = GroupNorm(2, 8), torch.nn.GroupNorm(2, 8)
    x, scale_shift = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    scale, shift = scale_shift[:, :, None, None].chunk(2, dim=1)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm(x, scale_shift, silu=True), torch.nn.functional.silu(plain(x) * (1 + scale) + shift))


if __name__ == "__main__":
    from ediffi.registry.denoisers.group_norm_kernels import group_norm

    for name in CASES:
        for kind in (torch.float32, torch.bfloat16):
            check(lambda *arguments: group_norm(*arguments)[0], name, kind)
            print(str(kind).removeprefix("torch."))
